"""How long the prompts of a run will take: a small one is timed, and longer ones are computed from that."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from qwartet.evaluate.answerer import Answerer
from qwartet.evaluate.filler.prose import prose
from qwartet.evaluate.question import Chat, Continue, Question
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.tokenizer import Tokenizer

PROBE_TOKENS = 256
_PROBE_SEEDS = (1_000_001, 1_000_002)  # prose that no task asks, so that nothing of it is cached


@runtime_checkable
class Forecasting(Protocol):
    """A task whose run may take long, runs code, or leaves something out: it says so before."""

    def forecast(self, answerer: Answerer) -> Iterator[str]:
        """Lines for the terminal."""
        ...


def prompt_lines(
    name: str,
    prompts: Mapping[int, int],
    answerer: Answerer,
    tokenizer: Tokenizer,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[str]:
    """A line for each length of prompts, given how many there are of it, and one for all together.

    The seconds are those of a prompt of which nothing is cached, so the run takes less where prompts begin alike.
    """
    num_probe = max(min(PROBE_TOKENS, min(prompts) // 2), 1)
    measured = _seconds_of_probe(answerer, tokenizer, num_probe, clock)
    total = 0.0
    for length, count in prompts.items():
        line = f"{name}: {count:,} {'prompts' if count > 1 else 'prompt'} of {length:,} tokens"
        if measured is not None:
            seconds = measured * answerer.work(length) / answerer.work(num_probe)
            total += count * seconds
            line += f", about {seconds:.2g} s each" if seconds < 100 else f", about {seconds:,.0f} s each"
        yield line
    num_tokens = sum(length * count for length, count in prompts.items())
    line = f"{name}: {sum(prompts.values()):,} prompts, {num_tokens:,} tokens"
    yield line if measured is None else f"{line}, at most {_duration(total)}"


def _seconds_of_probe(
    answerer: Answerer, tokenizer: Tokenizer, num_tokens: int, clock: Callable[[], float]
) -> float | None:
    """Of one prompt, after another that warms up; None where the model does not answer it."""
    seconds = 0.0
    for seed in _PROBE_SEEDS:
        text = tokenizer.decode(tokenizer.encode(prose("en", seed, num_tokens, tokenizer))[:num_tokens])
        asked = Chat((Message("user", text),), max_tokens=1) if answerer.is_chat else Continue(text, max_tokens=1)
        before = clock()
        [(_, answer)] = answerer.answers(deque([Question("probe", "probe", asked, None)]))
        seconds = clock() - before
        if answer.error is not None:
            return None
    return seconds


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
