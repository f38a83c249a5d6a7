"""A request's ids, and when its completion ends."""

from __future__ import annotations

import pytest

from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams


def request(max_tokens: int = 3, stop_token_ids: frozenset[int] = frozenset()) -> Request:
    return Request(0, [10, 11, 12], SamplingParams(max_tokens=max_tokens), stop_token_ids)


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("end", range(6))
def test_any_slice_of_prompt_and_completion_can_be_had(start: int, end: int) -> None:
    one = request()
    one.completion_ids = [13, 14]
    assert one.num_tokens == 5
    assert one.token_ids(start, end) == [10, 11, 12, 13, 14][start:end]


def test_the_last_allowed_token_ends_a_completion_by_length() -> None:
    one = request(max_tokens=2)
    one.append(5)
    assert not one.is_finished
    one.append(5)
    assert one.finish_reason == "length"


def test_a_stop_token_ends_a_completion_and_is_part_of_it() -> None:
    one = request(max_tokens=1, stop_token_ids=frozenset({5}))
    one.append(5)
    assert one.finish_reason == "stop"
    assert one.completion_ids == [5]
