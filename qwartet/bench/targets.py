"""The targets of the CPU kernels and of evaluations, and how each figure follows from the raw results of a report.

A row of the kernels is a ratio to llama.cpp in the same round, or a share of the machine's ceiling in the same run.
Those targets were set for processors with AVX-512 VNNI and BF16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

Raw = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One row of the table."""

    what: str
    wanted: float
    stretch: float
    values: Callable[[Raw], list[float]]  # one for each round or shape; none if it was not measured
    is_share: bool = False
    less_is_better: bool = False
    worst_counts: bool = False  # for several shapes; for several rounds the median counts
    unit: str = "x"
    room: Callable[[Raw], list[float]] | None = None  # of each round: the ratio of ours at this machine's ceiling

    def value(self, raw: Raw) -> float | None:
        """The figure that counts; None if it was not measured."""
        values = self.values(raw)
        return None if not values else min(values) if self.worst_counts else median(values)

    def median_room(self, raw: Raw) -> float | None:
        """The figure that ours would reach at the ceilings of its own runs; None if no ratio follows from them."""
        if self.is_share:
            return 1.0
        rooms = [] if self.room is None else self.room(raw)
        return median(rooms) if rooms else None

    def is_reached(self, value: float, bound: float | None = None) -> bool:
        """Whether a figure is as good as `bound`; None: as the target."""
        bound = self.wanted if bound is None else bound
        return value <= bound if self.less_is_better else value >= bound

    def verdict(self, value: float) -> str:
        """The verdict on the figure that counts."""
        if self.is_reached(value, self.stretch):
            return "stretch reached"
        if self.is_reached(value):
            return "reached"
        return f"**missed**: {self.shown(value)} of {self.shown(self.wanted)}"

    def shown(self, value: float) -> str:
        return f"{value:.0%}" if self.is_share else f"{value:.2f}{self.unit}"


def _against_peer(run: str, phase: str) -> Callable[[Raw], list[float]]:
    def values(raw: Raw) -> list[float]:
        return [ours[phase] / peer[phase] for ours, peer in zip(raw["ours"][run], raw["llama.cpp"], strict=True)]

    return values


def _decode_room(run: str) -> Callable[[Raw], list[float]]:
    """Every byte of a token read at the read ceiling of the same run."""

    def room(raw: Raw) -> list[float]:
        pairs = zip(raw["ours"][run], raw["llama.cpp"], strict=True)
        return [ours["decode_tok_s"] / ours["mbu"] / peer["decode_tok_s"] for ours, peer in pairs]

    return room


def _prefill_room(run: str, passes: int) -> Callable[[Raw], list[float]]:
    """Every product of the linears at the int8 ceiling of the same run; exact activations take two passes."""

    def room(raw: Raw) -> list[float]:
        pairs = zip(raw["ours"][run], raw["llama.cpp"], strict=True)
        return [ours["prefill_tok_s"] / ours["mfu"] / passes / peer["prefill_tok_s"] for ours, peer in pairs]

    return room


def _batch_room(size: int) -> Callable[[Raw], list[float]]:
    """The slower of two: the weights read once a step, the products of the linears. The head's are left out."""

    def room(raw: Raw) -> list[float]:
        pairs = zip(raw["ours"]["int8 head"], raw["llama.cpp batches"], strict=True)
        return [_batch_limit(ours, size) / peer[str(size)] for ours, peer in pairs]

    return room


def _batch_limit(run: dict[str, Any], size: int) -> float:
    """Tokens a second of all requests, at the ceilings of the run."""
    by_bytes = size * run["decode_tok_s"] / run["mbu"]
    by_arithmetic = run["prefill_tok_s"] / run["mfu"]
    return float(min(by_bytes, by_arithmetic))


def _batch_against_peer(size: int) -> Callable[[Raw], list[float]]:
    def values(raw: Raw) -> list[float]:
        runs = [run for run in raw["ours"]["int8 head"] if run["batch_tok_s"]]
        pairs = zip(runs, raw["llama.cpp batches"], strict=False)  # none in reports from before these runs had batches
        return [ours["batch_tok_s"][str(size)] / peer[str(size)] for ours, peer in pairs]

    return values


def _long_context(raw: Raw) -> list[float]:
    return [run["mbu"] for run in raw["long context"]]


def _start(raw: Raw) -> list[float]:
    """Load and first token, less a usual token, over reading the checkpoint's files."""
    return [(run["load_s"] + run["first_token_s"] - run["token_s"]) / run["read_s"] for run in raw["starts"]]


def _gemv(raw: Raw) -> list[float]:
    kernels = raw["kernels"]
    return [
        result["gb_s"] / kernels["ceilings"]["read_gb_s"]
        for result in kernels["results"]
        if result["rows"] == 1 and result["operation"].startswith("int4")
    ]


def _of_each(part: str, name: str) -> Callable[[Raw], list[float]]:
    """A figure of each round of `bench evaluation`."""
    return lambda raw: [one[name] for one in raw[part]]


TARGETS = (
    Target("GEMV, 7B and 72B layer shapes, slowest of them, share of the read ceiling", 0.92, 0.97, _gemv,
           is_share=True, worst_counts=True),
    Target("decode, exact head, against llama.cpp with fp16 head", 1.10, 1.15,
           _against_peer("exact head", "decode_tok_s"), room=_decode_room("exact head")),
    Target("decode, Int8 head, against llama.cpp with fp16 head", 1.4, 1.5, _against_peer("int8 head", "decode_tok_s"),
           room=_decode_room("int8 head")),
    Target("prefill 512, int8 activations, against llama.cpp", 2.2, 2.8, _against_peer("exact head", "prefill_tok_s"),
           room=_prefill_room("exact head", 1)),
    Target("prefill 512, exact activations, against llama.cpp", 1.3, 1.5,
           _against_peer("exact activations", "prefill_tok_s"), room=_prefill_room("exact activations", 2)),
    Target("decode, 8 requests at once, Int8 head, against llama.cpp", 3.0, 4.5, _batch_against_peer(8),
           room=_batch_room(8)),
    Target("decode, 16 requests at once, Int8 head, against llama.cpp", 3.0, 4.0, _batch_against_peer(16),
           room=_batch_room(16)),
    Target("decode at 8,192 tokens of context, int8 KV cache, share of the byte limit", 0.85, 0.92, _long_context,
           is_share=True),
    Target("second start and first token, against reading the checkpoint's files", 1.3, 1.1, _start,
           less_is_better=True),
)  # fmt: skip

EVALUATION_TARGETS = (
    Target("multiple choice, share of the engine's throughput", 0.90, 0.95, _of_each("rounds", "share"), is_share=True),
    Target("5-shot, multiple of the time of 0-shot", 1.3, 1.2, _of_each("rounds", "cost_5_shot"), less_is_better=True),
    Target("time before the first question", 1.0, 0.5, _of_each("starts", "added_s"), less_is_better=True, unit=" s"),
)
