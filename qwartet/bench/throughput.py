"""How fast the engine serves many requests: tokens a second, and how long each waits for its first and next token.

The load is open: a request arrives when it is due, whether or not the engine keeps up, and its times count from there.

    TTFT   from the arrival to the first token          ITL   between two outputs of a request; a step that brings it
    TPOT   from the first token to the last, a token          several tokens (speculation) is one output
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from qwartet.engine.engine import Engine
from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams

PERCENTILES = (50, 90, 99)


@dataclass
class RequestTimes:
    """One request's times, in seconds after the start."""

    request: Request
    arrival_s: float
    output_s: list[float] = field(default_factory=list)  # of each step that brought tokens

    @property
    def ttft_s(self) -> float:
        return self.output_s[0] - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """None for a completion of one token."""
        num_later = len(self.request.completion_ids) - 1
        return (self.output_s[-1] - self.output_s[0]) / num_later if num_later else None

    @property
    def itl_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self.output_s)]


@dataclass(frozen=True)
class ThroughputRun:
    """What a load came to."""

    seconds: float  # from the first arrival to the last token
    times: list[RequestTimes]

    @property
    def num_output_tokens(self) -> int:
        return sum(len(one.request.completion_ids) for one in self.times)

    @property
    def output_tok_s(self) -> float:
        return self.num_output_tokens / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        num_prompt = sum(one.request.num_prompt_tokens for one in self.times)
        return {
            "requests": len(self.times),
            "seconds": round(self.seconds, 4),
            "output_tokens": self.num_output_tokens,
            "output_tok_s": round(self.output_tok_s, 2),
            "total_tok_s": round((self.num_output_tokens + num_prompt) / self.seconds, 2),
            "requests_s": round(len(self.times) / self.seconds, 4),
            "ttft_ms": percentiles_ms([one.ttft_s for one in self.times]),
            "tpot_ms": percentiles_ms([one.tpot_s for one in self.times if one.tpot_s is not None]),
            "itl_ms": percentiles_ms([gap for one in self.times for gap in one.itl_s]),
            "e2e_ms": percentiles_ms([one.output_s[-1] - one.arrival_s for one in self.times]),
            "cached_tokens": sum(one.request.num_cached_tokens for one in self.times),
            "preemptions": sum(one.request.num_preemptions for one in self.times),
        }


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """The nearest-rank percentiles of some times, in milliseconds; nothing for none."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    ranks = {share: max(-(-len(ordered) * share // 100) - 1, 0) for share in PERCENTILES}
    return {f"p{share}": round(1000 * ordered[rank], 3) for share, rank in ranks.items()}


def serve(
    engine: Engine,
    prompts: Sequence[list[int]],
    params: SamplingParams,
    arrivals_s: Sequence[float],
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> ThroughputRun:
    """Serves the prompts, each from its arrival on, in seconds after the start and in ascending order."""
    coming = list(zip(arrivals_s, prompts, strict=True))
    times: dict[int, RequestTimes] = {}
    start_s = clock()
    while coming or engine.has_unfinished:
        now = clock() - start_s
        while coming and coming[0][0] <= now:
            arrival_s, prompt = coming.pop(0)
            request = engine.add_request(prompt, params)
            times[request.request_id] = RequestTimes(request, arrival_s)
        if not engine.has_unfinished:
            sleep(coming[0][0] - now)
            continue
        outputs = engine.step()
        now = clock() - start_s
        for output in outputs:
            if output.request.error is not None:
                raise output.request.error
            times[output.request.request_id].output_s.append(now)
    return ThroughputRun(clock() - start_s - arrivals_s[0], list(times.values()))


def serve_in_turn(engine: Engine, prompts: Sequence[list[int]], params: SamplingParams) -> float:
    """Seconds that the same prompts take one after the other."""
    return sum(serve(engine, [prompt], params, [0.0]).seconds for prompt in prompts)
