"""How a checkpoint declares its quantisation: `quantize_config.json`, and `quantization_config` in `config.json`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from qwartet.errors import CheckpointError, CheckpointWarning, SettingError

PUBLISHED_NAMES = {"model_name_or_path": None, "model_file_base_name": "model"}
FORMATS = ("gptq", "gptq_v2")

# Keys that other writers add and that say nothing about the tensors.
HARMLESS_KEYS = frozenset(
    """
    model_name_or_path model_file_base_name model_basename meta damp_auto_increment mse hyb_act act_group_aware
    batch_size backend block_name_to_quantize cache_block_outputs dataset disable_exllama exllama_config
    max_input_length model_seqlen module_name_preceding_first_block modules_in_block_to_quantize pad_token_id
    tokenizer use_cuda_fp16 use_exllama
    """.split()  # noqa: SIM905 - thirty quoted words are harder to read
)
# Keys that do, with the only values for which the tensors have the meaning described here.
REQUIRED_VALUES: dict[str, tuple[Any, ...]] = {
    "quant_method": ("gptq", None),
    "method": ("gptq", None),
    "is_marlin_format": (False, None),
    "lm_head": (False, None),
    "dynamic": (None, {}),
    "pack_dtype": ("int32", None),
}


@dataclass(frozen=True)
class GptqConfig:
    """Settings of a GPTQ checkpoint, named as in `quantize_config.json`; SettingError for a value out of bounds."""

    bits: int  # 4 or 8
    group_size: int  # inputs that share a scale and a zero; -1: all of them
    desc_act: bool  # columns were quantised by descending activation, so groups are scattered: see g_idx
    sym: bool  # the zero is always 2**(bits - 1)
    damp_percent: float = 0.01  # fraction of the mean of diag(H) added to it; above 0, below 1
    static_groups: bool = False
    true_sequential: bool = True
    checkpoint_format: str | None = None  # "gptq" or "gptq_v2"; None: not stated

    method: ClassVar[str] = "gptq"  # what wrote the files: the value of quant_method

    def __post_init__(self) -> None:
        if not _is_int(self.bits) or self.bits not in (4, 8):
            raise SettingError(f"bits is {self.bits!r}; only 4 and 8 are supported")
        if not _is_int(self.group_size) or not (self.group_size == -1 or self.group_size > 0):
            raise SettingError(f"group_size is {self.group_size!r}; it must be a positive whole number, or -1")
        for name in ("desc_act", "sym", "static_groups", "true_sequential"):
            if not isinstance(getattr(self, name), bool):
                raise SettingError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        if not isinstance(self.damp_percent, int | float) or not 0 < self.damp_percent < 1:
            raise SettingError(f"damp_percent is {self.damp_percent!r}; it must be between 0 and 1")
        if self.checkpoint_format is not None and self.checkpoint_format not in FORMATS:
            raise SettingError(
                f"checkpoint_format is {self.checkpoint_format!r}; only {' and '.join(FORMATS)} are supported"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], path: str | os.PathLike[str]) -> GptqConfig:
        """Reads the content of one of the two files; CheckpointError, naming `path`, for an unsupported one."""
        if not isinstance(values, Mapping):
            raise CheckpointError(path, f"the quantization config is a {type(values).__name__}, not a JSON object")
        for key, allowed in REQUIRED_VALUES.items():
            if key in values and values[key] not in allowed:
                raise CheckpointError(path, f"{key} is {values[key]!r}; only {allowed[0]!r} is supported")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(map(str, values.keys() - known - HARMLESS_KEYS - REQUIRED_VALUES.keys() - {"format"})):
            warnings.warn(CheckpointWarning(f"{path}: unknown keys ignored: {', '.join(unknown)}"), stacklevel=2)
        if missing := [key for key in ("bits", "group_size", "desc_act", "sym") if values.get(key) is None]:
            raise CheckpointError(path, f"the quantization config lacks {', '.join(missing)}")
        given = {key: value for key, value in values.items() if key in known and value is not None}
        # GPTQModel writes the version twice, as "checkpoint_format" and as "format".
        stated = [values[key] for key in ("checkpoint_format", "format") if values.get(key) is not None]
        if len(stated) == 2 and stated[0] != stated[1]:
            raise CheckpointError(path, f"checkpoint_format is {stated[0]!r} and format is {stated[1]!r}")
        given["checkpoint_format"] = stated[0] if stated else None
        try:
            return cls(**given)
        except SettingError as error:
            raise CheckpointError(path, str(error)) from None

    def group_size_of(self, in_features: int) -> int:
        """Inputs of a group of a linear; the last group may have fewer."""
        return in_features if self.group_size == -1 else min(self.group_size, in_features)

    def file_shapes(self, in_features: int, out_features: int) -> dict[str, tuple[int, ...]]:
        """The tensors that a published checkpoint has of every linear, and their shapes."""
        num_groups = -(-in_features // self.group_size_of(in_features))
        return {
            "qweight": (in_features * self.bits // 32, out_features),
            "qzeros": (num_groups, out_features * self.bits // 32),
            "scales": (num_groups, out_features),
            "g_idx": (in_features,),
            "bias": (out_features,),
        }

    def size_of(self, qweight: tuple[int, ...]) -> tuple[int, int]:
        """Inputs and outputs of a linear whose qweight has this shape."""
        return qweight[0] * (32 // self.bits), qweight[1]

    def quantizes(self, name: str) -> bool:
        """Whether the linear of this name on disk is quantised."""
        return True

    @property
    def has_float_linears(self) -> bool:
        """Whether some linears of a block may be floats."""
        return False

    def as_gptq(self) -> GptqConfig:
        """The config of the weights as they are in memory."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """The content of `quantize_config.json`, in the published order."""
        published = {
            "bits": self.bits,
            "group_size": self.group_size,
            "damp_percent": self.damp_percent,
            "desc_act": self.desc_act,
            "static_groups": self.static_groups,
            "sym": self.sym,
            "true_sequential": self.true_sequential,
            **PUBLISHED_NAMES,
        }
        return (
            published if self.checkpoint_format is None else {**published, "checkpoint_format": self.checkpoint_format}
        )

    def to_quantization_config(self) -> dict[str, Any]:
        """The value of `quantization_config` in `config.json`, in the published order."""
        return {**self.to_dict(), "quant_method": "gptq"}

    def merge(self, other: GptqConfig, path: str | os.PathLike[str]) -> GptqConfig:
        """Joins `config.json` (self) with `quantize_config.json` (other, at `path`); CheckpointError if they disagree.

        A file that does not state checkpoint_format agrees with one that does.
        """
        for name in ("method", "bits", "group_size", "desc_act", "sym", "checkpoint_format"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs and not (name == "checkpoint_format" and None in (ours, theirs)):
                key = "quant_method" if name == "method" else name
                reason = f"{key} is {theirs!r} here and {ours!r} in config.json"
                raise CheckpointError(path, reason, hint="correct the one that does not describe the tensors")
        return replace(self, checkpoint_format=self.checkpoint_format or other.checkpoint_format)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
