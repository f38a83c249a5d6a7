"""A row of a profile: what it asks for, what the plan says of it, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from qwartet.bench.ceilings import Ceilings
from qwartet.planning.published_figures import GENERATED_TOKENS, PublishedRun, published_runs

Status = Literal["waiting", "measured", "out of memory", "does not fit", "too long", "failed"]
FINAL: tuple[Status, ...] = ("measured", "out of memory")  # what a later run does not measure again
PUBLISHED_CACHE = "bf16"


class Work(NamedTuple):
    """Arithmetic and memory traffic: operations (a multiplication and an addition are two) and bytes read."""

    operations: int
    num_bytes: int

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.operations / self.num_bytes

    def gop_s(self, seconds: float) -> float:
        """Arithmetic rate in 1e9 operations a second."""
        return self.operations / seconds / 1e9


@dataclass(frozen=True)
class Forecast:
    """What `qwartet plan` says of a row."""

    total_bytes: int  # once every block of the KV cache is used
    free_bytes: int
    peak_bytes: int  # the most that the process ever takes, its weights having been packed before
    peak_unpacked_bytes: int  # the same where it has to pack them itself
    prefill: Work  # of the whole prompt
    decode: Work  # of one token in the middle of the answer

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.free_bytes


@dataclass(frozen=True)
class Measured:
    """What a row's process measured; seconds count from the arrival of the prompt."""

    seconds: float  # to the last token
    first_token_s: float
    peak_bytes: int  # resident memory of the process
    has_packed: bool  # whether it packed weights, which later starts find on disk
    threads: int
    kernels: dict[str, str]
    warnings: list[str]


@dataclass(frozen=True)
class Row:
    """One row, with what is known of it so far."""

    model: str
    size: str | None  # "72b" where its shape is a published one
    precision: str
    attention: str
    device: str
    kv_cache_dtype: str  # "bf16", "int8", "int4", ...
    asked_kv_cache_dtype: str  # "auto", "int8", "int4"
    context: int
    generate: int
    checkpoint_bytes: int
    forecast: Forecast | None  # None where the model has no room for so many tokens
    status: Status = "waiting"
    reason: str | None = None  # why it was not measured
    measured: Measured | None = None
    ceilings: Ceilings | None = None  # of the machine just before; None where nothing measures them

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two rows the same."""
        settings = (self.precision, self.attention, self.device, self.kv_cache_dtype, self.context, self.generate)
        return (self.model, self.checkpoint_bytes, *settings)

    # Speeds

    @property
    def tokens_per_s(self) -> float | None:
        """The card's speed: generated tokens over the whole time, prefill included."""
        return None if self.measured is None else self.generate / self.measured.seconds

    @property
    def token_s(self) -> float | None:
        """Seconds of each token after the first (TPOT); None for an answer of one token."""
        if self.measured is None or self.generate < 2:
            return None
        return (self.measured.seconds - self.measured.first_token_s) / (self.generate - 1)

    @property
    def decode_tokens_per_s(self) -> float | None:
        return None if self.token_s is None else 1 / self.token_s

    @property
    def bandwidth_share(self) -> float | None:
        """How much of the decoding speed that the memory allows is reached."""
        if self.token_s is None or self.ceilings is None or self.forecast is None:
            return None
        return self.forecast.decode.num_bytes / self.token_s / (self.ceilings.read_gb_s * 1e9)

    # Memory

    @property
    def forecast_bytes(self) -> int | None:
        """The plan's peak for a start such as the measured one."""
        if self.forecast is None:
            return None
        has_packed = self.measured is not None and self.measured.has_packed
        return self.forecast.peak_unpacked_bytes if has_packed else self.forecast.peak_bytes

    # Beside it

    @property
    def published(self) -> list[PublishedRun]:
        """The published runs of the same row; those stored keys and values as floats."""
        is_same = self.generate == GENERATED_TOKENS and self.kv_cache_dtype == PUBLISHED_CACHE
        if self.size is None or not is_same:
            return []
        return [run for run in published_runs(self.size, self.precision) if run.prompt_tokens == self.context]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: all fields, and the figures that follow from them."""
        values = asdict(self)
        if self.forecast is not None:
            works = {"prefill": self.forecast.prefill, "decode": self.forecast.decode}
            values["forecast"] |= {name: work._asdict() for name, work in works.items()}
        names = ("tokens_per_s", "token_s", "decode_tokens_per_s", "bandwidth_share", "forecast_bytes")
        figures = {name: getattr(self, name) for name in names}
        return {**values, "figures": figures, "published": [asdict(run) for run in self.published]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """From `to_dict`; KeyError, TypeError or ValueError for anything else."""
        given = dict(values)
        for name in ("figures", "published"):
            given.pop(name)
        if given["forecast"] is not None:
            given["forecast"] = forecast_of(given["forecast"])
        for name, kind in (("measured", Measured), ("ceilings", Ceilings)):
            if given[name] is not None:
                given[name] = kind(**given[name])
        return cls(**given)


def forecast_of(values: Mapping[str, Any]) -> Forecast:
    """From plain values, as another process prints them."""
    return Forecast(**{**values, "prefill": Work(**values["prefill"]), "decode": Work(**values["decode"])})
