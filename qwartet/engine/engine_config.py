"""The settings of an engine."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from qwartet.errors import SettingError

SPECULATION = ("off", "prompt-lookup")
MAX_STALL_S = 3600
CPU_BATCHED_TOKENS, GPU_BATCHED_TOKENS = 512, 2048  # default tokens of a step
_BOUNDS = {
    "max_model_len": (2, 2**24),
    "max_num_seqs": (1, 2**16),
    "max_num_batched_tokens": (1, 2**24),
    "num_blocks": (1, 2**31),
}


@dataclass(frozen=True)
class EngineConfig:
    """The limits of an engine. None: what suits the model and the machine."""

    max_model_len: int | None = None  # tokens of the longest request, prompt and completion
    max_num_seqs: int = 16  # requests that run at once
    max_num_batched_tokens: int | None = None  # of a step; None: 512 on a CPU, 2,048 on a GPU
    max_stall_s: float | None = None  # most seconds that decoding waits for a chunk of a prompt; None: a full step
    num_blocks: int | None = None  # of the KV cache; None: as many as are useful and fit
    kv_cache_dtype: str = "auto"  # "auto": the model's; "int8" half of bf16, "int4" a quarter
    enable_prefix_caching: bool = True  # whether requests reuse what others have computed
    speculation: str = "prompt-lookup"  # or "off"; a draft model, if given, drafts instead

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if value is None and name != "max_num_seqs":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise SettingError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
        stall_s = self.max_stall_s
        is_number = isinstance(stall_s, int | float) and not isinstance(stall_s, bool)
        if stall_s is not None and not (is_number and 0 < stall_s <= MAX_STALL_S):
            raise SettingError(f"max_stall_s is {stall_s!r}; it must be more than 0 and at most {MAX_STALL_S} seconds")
        if self.speculation not in SPECULATION:
            raise SettingError(f"speculation is {self.speculation!r}; it must be {' or '.join(SPECULATION)}")
        if not isinstance(self.enable_prefix_caching, bool):
            raise SettingError(f"enable_prefix_caching is {self.enable_prefix_caching!r}; it must be True or False")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> EngineConfig:
        """From names and values; SettingError for an unknown name, with the nearest known one."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
                raise SettingError(f"unknown setting {name!r}; {hint}")
        return cls(**settings)
