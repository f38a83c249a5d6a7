"""A request's ids, and when its completion ends."""

from __future__ import annotations

import pytest

from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams


def request(max_tokens: int = 3, stop_token_ids: frozenset[int] = frozenset()) -> Request:
    return Request(0, [10, 11, 12], SamplingParams(max_tokens=max_tokens), stop_token_ids=stop_token_ids)


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


def test_drafts_lie_behind_the_completion() -> None:
    one = request()
    one.completion_ids, one.draft_ids = [13], [14, 15]
    assert one.num_tokens == 4
    assert one.token_ids(2, 6) == [12, 13, 14, 15]


def test_the_smaller_priority_comes_first_and_then_the_earlier_arrival() -> None:
    def arrived(request_id: int, priority: int) -> Request:
        return Request(request_id, [1], SamplingParams(priority=priority))

    ordered = sorted([arrived(0, 1), arrived(1, 0), arrived(2, -3), arrived(3, 0)], key=lambda one: one.order)
    assert [one.request_id for one in ordered] == [2, 1, 3, 0]


def test_a_request_decodes_when_only_its_last_sampled_token_is_not_computed() -> None:
    one = request()
    one.table.num_computed_tokens = 2
    assert not one.is_decoding  # the prompt's last token is not a sampled one
    one.completion_ids, one.table.num_computed_tokens = [13], 3
    assert one.is_decoding
    one.table.num_computed_tokens = 0
    assert not one.is_decoding


def test_a_child_waits_until_its_parent_has_computed_the_prompt_or_ended() -> None:
    parent, child = request(), request()
    assert not child.waits_for_parent
    child.parent, parent.table.num_computed_tokens = parent, 2
    assert child.waits_for_parent
    parent.table.num_computed_tokens = 3
    assert not child.waits_for_parent
    parent.table.num_computed_tokens, parent.finish_reason = 0, "abort"
    assert not child.waits_for_parent
