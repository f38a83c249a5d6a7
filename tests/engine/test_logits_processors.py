"""Each change of logits, and each limit, on a row small enough to check by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwartet.engine.gumbel import candidates
from qwartet.engine.logits_processors import LogitsChange, change_logits, forbid, largest, penalise_repetition
from qwartet.engine.sampling_params import SamplingParams

HALVES = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()  # probabilities 1/2, 1/4, 1/8, 1/8

rows = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30).map(torch.tensor)


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero()[:, 0].tolist()


def limited(logits: torch.Tensor, **limits: float) -> torch.Tensor:
    """The row with -inf for what is not sampled from."""
    token_ids, scores = candidates(logits, SamplingParams(**limits))
    return torch.full_like(logits, -torch.inf).index_copy(0, torch.tensor(token_ids), torch.tensor(scores).float())


def test_the_penalty_divides_positive_and_multiplies_negative_logits_of_ids_seen_once_or_more() -> None:
    logits = torch.tensor([2.0, -2.0, 0.0, 4.0])
    assert penalise_repetition(logits, [0, 1, 1, 2], 2.0).tolist() == [1, -4, 0, 4]
    assert logits.tolist() == [2, -2, 0, 4], "the input was written to"


def test_ids_beyond_the_row_are_passed_over() -> None:
    logits = torch.tensor([2.0, 4.0])
    assert penalise_repetition(logits, [1, 2, 99], 2.0).tolist() == [2, 2]
    assert kept(forbid(logits, frozenset({1, 2}))) == [0]


def test_nothing_seen_and_nothing_forbidden_changes_nothing() -> None:
    assert torch.equal(penalise_repetition(HALVES, [], 1.5), HALVES)
    assert torch.equal(forbid(HALVES, frozenset()), HALVES)


@pytest.mark.parametrize(
    ("top_k", "expected"), [(1, [2]), (2, [0, 2]), (3, [0, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_top_k_keeps_the_k_highest(top_k: int, expected: list[int]) -> None:
    assert kept(limited(torch.tensor([3.0, 1.0, 4.0, 2.0]), top_k=top_k)) == expected


def test_top_k_keeps_all_that_tie_with_the_last() -> None:
    assert kept(limited(torch.tensor([1.0, 5.0, 1.0, 0.0]), top_k=2)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("top_p", "expected"), [(0.0, 1), (0.3, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.8, 3), (0.9, 4)]
)
def test_top_p_keeps_the_fewest_highest_whose_probabilities_reach_it(top_p: float, expected: int) -> None:
    assert len(kept(limited(HALVES, top_p=top_p))) == expected


def test_top_p_finds_the_highest_wherever_they_stand() -> None:
    assert kept(limited(HALVES[[2, 0, 3, 1]], top_p=0.7)) == [1, 3]


@given(rows, st.floats(0, 1), st.integers(1, 40))
def test_what_is_kept_is_unchanged_and_the_highest_is_always_kept(logits, top_p: float, top_k: int) -> None:
    for result in (limited(logits, top_p=top_p), limited(logits, top_k=top_k)):
        is_kept = result != -math.inf
        assert torch.equal(result[is_kept], logits[is_kept])
        assert is_kept[logits.argmax()] or (logits[is_kept] == logits.max()).any()
        if not is_kept.all():
            assert logits[~is_kept].max() <= logits[is_kept].min()


@given(rows, st.floats(0.01, 0.99))
def test_the_mass_that_top_p_keeps_is_at_least_top_p(logits, top_p: float) -> None:
    probabilities = logits.double().softmax(-1)
    assert probabilities[limited(logits, top_p=top_p) != -math.inf].sum() >= top_p - 1e-5


@given(st.integers(1, 5), st.integers(1, 400), st.integers(1, 40), st.integers(0, 2**32), st.integers(0, 18))
def test_the_largest_are_found_wherever_they_stand(num_rows: int, width: int, count: int, seed: int, ties: int) -> None:
    x = torch.randint(-(10**ties), 10**ties, (num_rows, width), generator=torch.Generator().manual_seed(seed % 2**31))
    values, places = largest(x, count)
    assert torch.equal(x.gather(1, places), values)
    assert torch.equal(values.sort(-1, descending=True).values, x.topk(min(count, width)).values)
    assert all(len(set(row)) == len(row) for row in places.tolist())


def test_changes_of_several_rows_are_made_at_once_and_in_place() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0], [4.0, 4.0, 4.0]])
    change_logits(logits, [LogitsChange(0, np.array([0, 1, 7]), 0.5, 2.0), LogitsChange(1, np.array([2]), -math.inf)])
    assert logits.tolist() == [[1.5, -3.5, 1.0], [4.0, 4.0, -math.inf]]
