"""How long a chunk may be, from how long the latest steps took."""

from __future__ import annotations

import pytest

from qwartet.engine.chunk_limiter import MIN_CHUNK, ChunkLimiter
from qwartet.engine.step_stats import StepStats


def observe(limiter: ChunkLimiter, num_tokens: int, seconds: float) -> None:
    limiter.observe(StepStats(num_prompt_tokens=num_tokens, forward_s=seconds))


def test_without_a_limit_a_chunk_is_what_the_step_allows() -> None:
    limiter = ChunkLimiter(None)
    observe(limiter, 512, 60.0)
    assert limiter.chunk(512) == 512


def test_before_anything_is_known_it_is_short() -> None:
    assert ChunkLimiter(0.5).chunk(512) == MIN_CHUNK
    assert ChunkLimiter(0.5).chunk(7) == 7, "never more than the step allows"


@pytest.mark.parametrize(("token_s", "expected"), [(0.01, 50), (0.002, 250), (0.0001, 512), (0.1, MIN_CHUNK)])
def test_it_takes_as_long_as_is_allowed_at_the_speed_that_was_seen(token_s: float, expected: int) -> None:
    limiter = ChunkLimiter(0.5)
    observe(limiter, 512, 512 * token_s)
    assert limiter.chunk(512) == pytest.approx(expected, abs=1)


def test_steps_of_few_tokens_say_nothing_and_later_ones_count_more() -> None:
    limiter = ChunkLimiter(1.0)
    observe(limiter, 100, 1.0)
    observe(limiter, 1, 5.0)
    assert limiter.chunk(512) == 100
    for _ in range(20):
        observe(limiter, 200, 1.0)
    assert limiter.chunk(512) == pytest.approx(200, abs=1)


def test_where_reading_the_weights_takes_the_time_it_grows_until_it_is_long_enough() -> None:
    limiter, chunk = ChunkLimiter(0.5), 0
    for _ in range(12):
        chunk = limiter.chunk(2048)
        observe(limiter, chunk, 0.02 + 0.0001 * chunk)  # a step of 32 tokens takes 23 ms, one of 2,048 takes 0.22 s
    assert chunk == 2048
