"""How an AWQ checkpoint declares its quantisation, and what its weights become in memory: those of GPTQ.

config.json           "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, ...}
quant_config.json     {"w_bit": 4, "q_group_size": 128, "zero_point": true, "version": "GEMM"}   (AutoAWQ, early)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.quant_format.config import HARMLESS_KEYS, GptqConfig

VERSION = "gemm"
LANES = 8
"""Outputs that share a word."""
AWQ_KEYS = ("w_bit", "q_group_size", "zero_point")
"""Keys of AWQ that a GPTQ config does not have."""

_USE_ANOTHER = "use a checkpoint of version gemm, or quantise the float model with `qwartet quantize`"
_ALIASES = {
    "quant_method": ("quant_method", "method"),
    "bits": ("bits", "w_bit"),
    "group_size": ("group_size", "q_group_size"),
    "version": ("version", "format", "checkpoint_format"),
}
_HARMLESS_KEYS = HARMLESS_KEYS | {
    "sym", "damp_percent", "static_groups", "true_sequential", "do_fuse", "fuse_max_seq_len", "modules_to_fuse",
}  # fmt: skip
# Keys that change what the tensors mean, with the values that leave it as described here.
_REQUIRED_VALUES: Mapping[str, tuple[Any, ...]] = {
    "desc_act": (False, None),
    "lm_head": (False, None),
    "dynamic": (None, {}),
    "pack_dtype": ("int32", None),
}


@dataclass(frozen=True)
class AwqConfig(GptqConfig):
    """Settings of an AWQ checkpoint, as those of the GPTQ weights (version 2, in order) that it becomes.

    `sym` is zero_point false: every zero is 8, and stored. SettingError for a value out of bounds.
    """

    modules_to_not_convert: tuple[str, ...] = ()  # linears with such a part of a name are floats

    method: ClassVar[str] = "awq"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits != 4:
            raise SettingError(f"bits is {self.bits!r}; AWQ is supported at 4 bits")
        assert not self.desc_act and self.checkpoint_format == "gptq_v2", self

    @classmethod
    def of(cls, group_size: int, *, bits: int = 4, zero_point: bool = True, floats: tuple[str, ...] = ()) -> AwqConfig:
        """Of the settings that AWQ has; `floats` are the modules_to_not_convert."""
        return cls(bits, group_size, False, not zero_point, checkpoint_format="gptq_v2", modules_to_not_convert=floats)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], path: str | os.PathLike[str]) -> AwqConfig:
        """Reads the content of one of the two files; CheckpointError, naming `path`, for an unsupported one."""
        if not isinstance(values, Mapping):
            raise CheckpointError(path, f"the quantization config is a {type(values).__name__}, not a JSON object")
        found = {key: _value(values, key, path) for key in _ALIASES}
        if (method := found["quant_method"]) not in ("awq", None):
            raise CheckpointError(path, f"quant_method is {method!r}; only 'awq' is supported")
        version = VERSION if found["version"] is None else found["version"]
        if values.get("backend") in ("llm-awq", "llmawq"):
            version = values["backend"]
        if not isinstance(version, str) or version.lower() != VERSION:
            raise CheckpointError(path, f"version is {version!r}; AWQ is read in version 'gemm'", hint=_USE_ANOTHER)
        for key, allowed in _REQUIRED_VALUES.items():
            if key in values and values[key] not in allowed:
                raise CheckpointError(path, f"{key} is {values[key]!r}; for AWQ, only {allowed[0]!r} is supported")
        known = {"zero_point", "modules_to_not_convert", *_REQUIRED_VALUES, *_HARMLESS_KEYS}
        known.update(*_ALIASES.values())
        if unknown := sorted(map(str, values.keys() - known)):
            warnings.warn(CheckpointWarning(f"{path}: unknown keys ignored: {', '.join(unknown)}"), stacklevel=2)
        if missing := [key for key in ("bits", "group_size") if found[key] is None]:
            raise CheckpointError(path, f"the quantization config lacks {', '.join(missing)}")
        zero_point = True if values.get("zero_point") is None else values["zero_point"]
        if not isinstance(zero_point, bool):
            raise CheckpointError(path, f"zero_point is {zero_point!r}; it must be true or false")
        try:
            return cls.of(found["group_size"], bits=found["bits"], zero_point=zero_point, floats=_floats(values, path))
        except SettingError as error:
            raise CheckpointError(path, str(error)) from None

    def file_shapes(self, in_features: int, out_features: int) -> dict[str, tuple[int, ...]]:
        """As of GPTQ; SettingError for a linear that has no whole groups or words."""
        group_size = self.group_size_of(in_features)
        if in_features % group_size:
            reason = f"group_size {group_size} does not divide the {in_features} inputs of a linear, as AWQ needs"
            raise SettingError(f"{reason}; choose another")
        if out_features % LANES:
            raise SettingError(f"a linear has {out_features} outputs, not a multiple of {LANES}; AWQ cannot hold it")
        num_groups, num_words = in_features // group_size, out_features // LANES
        return {
            "qweight": (in_features, num_words),
            "qzeros": (num_groups, num_words),
            "scales": (num_groups, out_features),
        }

    def group_size_of(self, in_features: int) -> int:
        """Inputs of a group of a linear, which has whole groups."""
        return in_features if self.group_size == -1 else self.group_size

    def size_of(self, qweight: tuple[int, ...]) -> tuple[int, int]:
        return qweight[0], qweight[1] * LANES

    def quantizes(self, name: str) -> bool:
        return not any(part in name for part in self.modules_to_not_convert)

    @property
    def has_float_linears(self) -> bool:
        return bool(self.modules_to_not_convert)

    def as_gptq(self) -> GptqConfig:
        return GptqConfig(self.bits, self.group_size, False, self.sym, checkpoint_format=self.checkpoint_format)

    def to_dict(self) -> dict[str, Any]:
        """The value of `quantization_config` in `config.json`, as AutoAWQ writes it."""
        return {
            "bits": self.bits,
            "group_size": self.group_size,
            "modules_to_not_convert": list(self.modules_to_not_convert) or None,
            "quant_method": self.method,
            "version": VERSION,
            "zero_point": not self.sym,
        }

    def to_quantization_config(self) -> dict[str, Any]:
        return self.to_dict()

    def merge(self, other: GptqConfig, path: str | os.PathLike[str]) -> GptqConfig:
        """As of GPTQ; early files do not state modules_to_not_convert."""
        merged, theirs = super().merge(other, path), getattr(other, "modules_to_not_convert", ())
        return replace(merged, modules_to_not_convert=self.modules_to_not_convert or theirs)  # type: ignore[call-arg]


def _value(values: Mapping[str, Any], key: str, path: str | os.PathLike[str]) -> Any:
    """The value of a key under any of its names; None if it is not stated, CheckpointError if they disagree."""
    stated = {name: values[name] for name in _ALIASES[key] if values.get(name) is not None}
    (name, first), *others = stated.items() if stated else [(key, None)]
    for other, value in others:
        if str(value).lower() != str(first).lower():
            raise CheckpointError(path, f"{name} is {first!r}, but {other} is {value!r}")
    return first


def _floats(values: Mapping[str, Any], path: str | os.PathLike[str]) -> tuple[str, ...]:
    names = values.get("modules_to_not_convert")
    names = [] if names is None else names
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise CheckpointError(path, f"modules_to_not_convert is {names!r:.200}; it must be a list of names")
    return tuple(names)
