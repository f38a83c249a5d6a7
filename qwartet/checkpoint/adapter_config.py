"""adapter_config.json of a LoRA adapter, as PEFT writes it: rank and scale of every linear that it adapts.

scale = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora (Kalajdzievski 2023); rank_pattern and alpha_pattern
give single linears values of their own. Keys that change what an adapter computes are rejected by name.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG
from qwartet.errors import CheckpointError, CheckpointWarning

MAX_RANK = 4096
_MAX_ALPHA = 1e6
_MERGE = "merge it into its base model with PEFT (merge_and_unload), and load the result"

# Keys with the only values for which an adapter is y = W x + scale * B A x.
_REQUIRED_VALUES: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),  # others change the base's weights too
    "lora_bias": (False, None),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "monteclora_config": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "use_bdlora": (None, False),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "velora_config": (None,),
}
_KNOWN_KEYS = frozenset(
    """
    alpha_pattern auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules
    inference_mode layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout lora_ga_config
    megatron_config megatron_core modules_to_save peft_type peft_version qalora_group_size r rank_pattern revision
    runtime_config target_modules task_type use_rslora
    """.split()  # noqa: SIM905 - thirty quoted words are harder to read
)
_PLAIN_NAME = re.compile(r"\^?(?:\w|\.|\\\.){1,200}\$?", re.ASCII)


@dataclass(frozen=True)
class AdapterConfig:
    """What adapter_config.json says of the low-rank matrices; names are those on disk."""

    path: Path
    base: str | None  # the model that it was trained on, as PEFT was given it
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: tuple[str, ...] | None  # names or ends of names; None: not a list of names

    def rank_of(self, name: str) -> int:
        """The rank of a linear ("transformer.h.0.attn.c_attn")."""
        return next((value for key, value in self.rank_pattern.items() if _is_of(key, name)), self.rank)

    def scale_of(self, name: str) -> float:
        """The factor of B A x."""
        alpha = next((value for key, value in self.alpha_pattern.items() if _is_of(key, name)), self.alpha)
        rank = self.rank_of(name)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def adapts(self, name: str) -> bool:
        """Whether target_modules lists a linear; true where it is not a list of names."""
        return self.targets is None or any(_is_of(target, name) for target in self.targets)


def read_adapter_config(directory: Path) -> AdapterConfig:
    """The configuration of an adapter's directory; CheckpointError for anything but plain LoRA.

    CheckpointWarning for keys that this version does not know.
    """
    path = directory / ADAPTER_CONFIG
    raw = read_json(path)
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(path, f"peft_type is {kind!r:.80}; only 'LORA' is supported", hint=_MERGE)
    for key, allowed in _REQUIRED_VALUES.items():
        if key in raw and raw[key] not in allowed:
            raise CheckpointError(path, f"{key} is {raw[key]!r:.80}; only {allowed[0]!r} is supported", hint=_MERGE)
    if unknown := sorted(raw.keys() - _KNOWN_KEYS - _REQUIRED_VALUES.keys()):
        warnings.warn(CheckpointWarning(f"{path}: unknown keys ignored: {', '.join(unknown)}"), stacklevel=3)
    base = raw.get("base_model_name_or_path")
    use_rslora = raw.get("use_rslora") or False
    if not isinstance(use_rslora, bool):
        raise CheckpointError(path, f"use_rslora is {use_rslora!r:.80}; it must be true or false")
    return AdapterConfig(
        path=path,
        base=base if isinstance(base, str) and base else None,
        rank=_rank(path, "r", raw.get("r")),
        alpha=_alpha(path, "lora_alpha", raw.get("lora_alpha")),
        use_rslora=use_rslora,
        rank_pattern={key: _rank(path, f"rank_pattern of {key}", v) for key, v in _pattern(path, raw, "rank_pattern")},
        alpha_pattern={
            key: _alpha(path, f"alpha_pattern of {key}", v) for key, v in _pattern(path, raw, "alpha_pattern")
        },
        targets=_targets(path, raw),
    )


def _rank(path: Path, what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RANK:
        raise CheckpointError(path, f"{what} is {value!r:.80}; it must be a whole number from 1 to {MAX_RANK}")
    return value


def _alpha(path: Path, what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_ALPHA:
        raise CheckpointError(path, f"{what} is {value!r:.80}; it must be a number up to {_MAX_ALPHA:.0f}")
    return float(value)


def _pattern(path: Path, raw: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    """Names of linears with values; PEFT allows regular expressions there, which are not run."""
    pattern = raw.get(key) or {}
    if not isinstance(pattern, dict):
        raise CheckpointError(path, f"{key} is {pattern!r:.80}; it must be an object of names and values")
    for name in pattern:
        if not _PLAIN_NAME.fullmatch(name):
            reason = f"{key} has {name!r:.80}, which is not the name of a linear"
            raise CheckpointError(path, reason, hint="list the linears by name, such as transformer.h.0.attn.c_attn")
    return list(pattern.items())


def _targets(path: Path, raw: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names in target_modules; None where it is a regular expression, or other keys narrow it."""
    targets = raw.get("target_modules")
    if isinstance(targets, str) or targets is None:
        return None
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise CheckpointError(path, f"target_modules is {targets!r:.80}; it must be a list of names")
    narrowed = any(raw.get(key) is not None for key in ("layers_to_transform", "layers_pattern", "exclude_modules"))
    return None if narrowed else tuple(targets)


def _is_of(key: str, name: str) -> bool:
    """Whether a key is the name of a linear, or its end; one that begins with ^ is the whole name."""
    plain = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
    return name == plain or (not key.startswith("^") and name.endswith(f".{plain}"))
