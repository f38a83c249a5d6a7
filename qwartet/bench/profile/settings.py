"""What a profile measures: checkpoints, contexts, kinds of KV cache, and how attention is computed.

The protocol is that of the script behind the published tables: a prompt of `context` tokens, exactly `generate` tokens
after it, one request at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwartet.errors import SettingError

CONTEXTS = (1, 6144, 14_336, 30_720)  # of the card
KV_CACHE_DTYPES = ("auto", "int8", "int4")
MOST_TOKENS = 2**24


@dataclass(frozen=True)
class AttentionSetting:
    """One way to compute a network: what the card's column "Setting" names. A further device adds its own."""

    name: str
    device: str
    environment: tuple[tuple[str, str], ...]  # of the process that computes
    # Typical shares of the machine's limits, to estimate the time beforehand: of arithmetic and of bandwidth.
    prefill_share: float
    decode_share: float


NATIVE = AttentionSetting("native", "cpu", (), prefill_share=0.6, decode_share=0.8)
REFERENCE = AttentionSetting(
    "reference", "cpu", (("QWARTET_CPU_ISA", "none"),), prefill_share=0.05, decode_share=0.2
)  # torch's operations, without the native library
ATTENTION_SETTINGS = {setting.name: setting for setting in (NATIVE, REFERENCE)}


@dataclass(frozen=True)
class NamedModel:
    """A checkpoint and what the table calls it."""

    name: str
    directory: Path


@dataclass(frozen=True)
class ProfileSettings:
    """Everything that decides which rows there are, and how they are computed."""

    models: tuple[NamedModel, ...]
    contexts: tuple[int, ...] = CONTEXTS
    generate: int = 2048
    kv_cache_dtypes: tuple[str, ...] = ("auto",)
    attention: tuple[str, ...] = (NATIVE.name,)
    activations: str | None = None
    head: str = "auto"
    threads: int | None = None
    force: bool = False  # measure rows too that do not fit by the plan

    def __post_init__(self) -> None:
        _check_names("--kv-cache-dtype", self.kv_cache_dtypes, KV_CACHE_DTYPES)
        _check_names("--attention", self.attention, tuple(ATTENTION_SETTINGS))
        for name, values in (("--contexts", self.contexts), ("--generate", (self.generate,))):
            if not values:
                raise SettingError(f"{name} is empty; set at least one number of tokens")
            for value in values:
                if not 1 <= value <= MOST_TOKENS:
                    raise SettingError(f"{name} is {value}; it must be between 1 and {MOST_TOKENS}")
        if self.threads is not None and not 1 <= self.threads <= 256:
            raise SettingError(f"--threads is {self.threads}; it must be between 1 and 256")
        names = [model.name for model in self.models]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise SettingError(f"two models have the name {twice!r}; pass another path for one, or leave it out")


def _check_names(option: str, names: Sequence[str], known: tuple[str, ...]) -> None:
    if not names:
        raise SettingError(f"{option} is empty; it must be one or more of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise SettingError(f"{option} has {name!r}; it must be one or more of {', '.join(known)}")
