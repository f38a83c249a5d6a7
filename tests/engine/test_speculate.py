"""Drafts: what prompt lookup proposes, and when it is worth proposing at all."""

from __future__ import annotations

import pytest

from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.speculate import MAX_DRAFTS, MAX_PAUSE, PromptLookup, Speculation, StepCost
from qwartet.engine.step_stats import StepStats


def request(prompt: list[int], completion: list[int] = (), request_id: int = 0) -> Request:
    return Request(request_id, list(prompt), SamplingParams(max_tokens=999), completion_ids=list(completion))


def propose(lookup: PromptLookup, one: Request, most: int) -> list[int]:
    return lookup._index(one).continuation(most)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2, 3], [4, 5, 6, 1]),
        ([1, 2, 3, 9, 1, 2, 3, 8, 7, 6, 1, 2, 3], [8, 7, 6, 1]),  # the later place
        ([1, 2, 3, 4, 5], []),
        ([1, 2], []),
        ([4, 4, 4, 4], [4, 4, 4, 4]),  # what repeats itself goes on
        ([1, 2, 3, 1, 2, 3], [1, 2, 3, 1]),
    ],
)
def test_what_followed_the_last_three_ids_is_proposed(prompt: list[int], expected: list[int]) -> None:
    assert propose(PromptLookup(), request(prompt), 4) == expected


def test_the_completion_is_looked_up_too_as_it_grows() -> None:
    lookup, one = PromptLookup(), request([1, 2, 3, 4])
    assert propose(lookup, one, 2) == []
    for token_id, expected in ((1, []), (2, []), (3, [4, 1]), (4, [1, 2])):
        one.completion_ids.append(token_id)
        assert propose(lookup, one, 2) == expected


def test_after_one_exchanged_id_the_copy_is_taken_up_at_once_and_given_up_after_three() -> None:
    lookup, one = PromptLookup(), request([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3])
    assert propose(lookup, one, 2) == [4, 5]
    one.completion_ids.append(99)  # instead of 4
    assert propose(lookup, one, 2) == [5, 6]
    one.completion_ids += [98, 97]
    assert propose(lookup, one, 2) == [7, 8]
    one.completion_ids.append(96)
    assert propose(lookup, one, 2) == []


class Cost(StepCost):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def of_a_token(self, num_tokens: int) -> float:
        return self.share


REPEATING = [1, 2, 3, 4] * 10


def wanted(speculation: Speculation, one: Request, num_running: int = 1) -> int:
    return speculation.num_wanted(one, num_running)


def test_the_dearer_a_token_and_the_more_requests_wait_the_less_is_drafted() -> None:
    def first(share: float, num_running: int = 1) -> int:
        return wanted(Speculation(PromptLookup(), Cost(share)), request(REPEATING), num_running)

    counts = [first(share) for share in (0.001, 0.05, 0.1, 0.3, 0.7)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] == 0
    assert first(0.05, num_running=4) < first(0.05)


def test_right_drafts_lead_to_longer_ones_up_to_the_limit() -> None:
    speculation, one = Speculation(PromptLookup(), Cost(0.05)), request(REPEATING)
    before = wanted(speculation, one)
    for _ in range(20):
        one.draft_ids = [1, 2, 3]
        assert speculation.judge(one, 4) == 3
    one.draft_ids = []
    assert before < wanted(speculation, one) == MAX_DRAFTS


def test_a_request_whose_drafts_fail_is_left_alone_ever_longer_and_then_tried_with_one() -> None:
    speculation, one = Speculation(PromptLookup(), Cost(0.3)), request(REPEATING)
    assert wanted(speculation, one)
    pauses = []
    for _ in range(9):
        one.draft_ids = [9]
        speculation.judge(one, 1)
        one.draft_ids, pause = [], 0
        while not (count := wanted(speculation, one)):
            pause += 1
        pauses.append(pause)
    assert pauses == [1, 2, 4, 8, 16, 32, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE] and count == 1


def test_what_steps_drafted_and_cost_adds_up() -> None:
    speculation = Speculation(PromptLookup())
    for num_accepted in (3, 0):
        speculation.observe(StepStats(num_decode_tokens=1, num_drafted=3, num_accepted=num_accepted, forward_s=0.1))
    assert (speculation.num_drafted, speculation.num_accepted) == (6, 3)
    assert speculation.cost.of_a_token(4) < speculation.cost.of_a_token(1), "the same 0.1 of a longer step"


def test_one_requests_failures_are_not_anothers() -> None:
    speculation, one, other = Speculation(PromptLookup(), Cost(0.1)), request(REPEATING), request(REPEATING, (), 1)
    wanted(speculation, one)
    one.draft_ids = [9, 9]
    speculation.judge(one, 1)
    assert wanted(speculation, one) == 0 < wanted(speculation, other)


def test_nothing_is_kept_of_a_request_that_ended() -> None:
    lookup = PromptLookup()
    speculation, one = Speculation(lookup, Cost(0.1)), request(REPEATING)
    wanted(speculation, one)
    speculation.release(one)
    assert not lookup._indexes and not speculation._records


def test_the_cost_of_a_token_is_the_slope_of_the_steps_that_were_made() -> None:
    cost = StepCost()
    assert cost.of_a_token(1) == 0.1, "before anything was measured"
    for num_tokens in (1, 5, 9, 17) * 20:
        cost.count(num_tokens, 0.030 + 0.002 * num_tokens)
    for num_tokens in (1, 8, 16):
        assert cost.of_a_token(num_tokens) == pytest.approx(0.002 / (0.030 + 0.002 * num_tokens), rel=0.1)
    before = cost.of_a_token(1)
    cost.count(512, 3.0)  # a chunk of a prompt lies on no line
    assert cost.of_a_token(1) == before


def test_noise_makes_no_token_cost_more_than_its_part_of_a_step_or_less_than_nothing() -> None:
    dear, cheap = StepCost(), StepCost()
    for _ in range(50):
        dear.count(1, 0.001), dear.count(10, 0.9)
        cheap.count(1, 0.9), cheap.count(10, 0.001)
    assert 0.9 < dear.of_a_token(1) <= 1 and cheap.of_a_token(1) == 0


def test_steps_of_one_size_leave_the_cost_at_what_is_taken_for_usual() -> None:
    cost = StepCost()
    for _ in range(50):
        cost.count(1, 0.03)
    assert cost.of_a_token(1) == pytest.approx(0.1)
