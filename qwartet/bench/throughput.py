"""How fast the engine serves many requests: tokens a second, and how long each waits for its first and next token.

The load is open: a request arrives when it is due, whether or not the engine keeps up, and its times count from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwartet.bench.request_times import RequestTimes, load_report
from qwartet.engine.engine import Engine
from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams


@dataclass
class ServedRequest(RequestTimes):
    """A request of the engine with its times."""

    request: Request = field(kw_only=True)
    text_s: list[float] = field(default_factory=list)  # of the outputs with text, if there is a tokenizer


@dataclass(frozen=True)
class ThroughputRun:
    """The results of a load."""

    seconds: float  # from the first arrival to the last token
    times: list[ServedRequest]

    @property
    def num_output_tokens(self) -> int:
        return sum(one.num_tokens for one in self.times)

    @property
    def output_tok_s(self) -> float:
        return self.num_output_tokens / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        num_prompt_tokens = sum(one.request.num_prompt_tokens for one in self.times)
        return {
            **load_report(self.times, self.seconds, num_prompt_tokens),
            "cached_tokens": sum(one.request.num_cached_tokens for one in self.times),
            "preemptions": sum(one.request.num_preemptions for one in self.times),
        }


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
    times: dict[int, ServedRequest] = {}
    start_s = clock()
    while coming or engine.has_unfinished:
        now = clock() - start_s
        while coming and coming[0][0] <= now:
            arrival_s, prompt = coming.pop(0)
            request = engine.add_request(prompt, params)
            times[request.request_id] = ServedRequest(arrival_s, request=request)
        if not engine.has_unfinished:
            sleep(coming[0][0] - now)
            continue
        outputs = engine.step()
        now = clock() - start_s
        for output in outputs:
            if output.request.error is not None:
                raise output.request.error
            served = times[output.request.request_id]
            served.output_s.append(now)
            served.num_tokens += len(output.token_ids)
            if output.text:
                served.text_s.append(now)
    return ThroughputRun(clock() - start_s - arrivals_s[0], list(times.values()))


def serve_in_turn(engine: Engine, prompts: Sequence[list[int]], params: SamplingParams) -> float:
    """Seconds that the same prompts take one after the other."""
    return sum(serve(engine, [prompt], params, [0.0]).seconds for prompt in prompts)
