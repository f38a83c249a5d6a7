"""Each processor on a row small enough to check by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwartet.engine.logits_processors import forbid, keep_top_k, keep_top_p, penalise_repetition

HALVES = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()  # probabilities 1/2, 1/4, 1/8, 1/8

rows = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30).map(torch.tensor)


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero()[:, 0].tolist()


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
    assert kept(keep_top_k(torch.tensor([3.0, 1.0, 4.0, 2.0]), top_k)) == expected


def test_top_k_keeps_all_that_tie_with_the_last() -> None:
    assert kept(keep_top_k(torch.tensor([1.0, 5.0, 1.0, 0.0]), 2)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("top_p", "expected"), [(0.0, 1), (0.3, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.8, 3), (0.9, 4)]
)
def test_top_p_keeps_the_fewest_highest_whose_probabilities_reach_it(top_p: float, expected: int) -> None:
    assert len(kept(keep_top_p(HALVES, top_p))) == expected


def test_top_p_finds_the_highest_wherever_they_stand() -> None:
    assert kept(keep_top_p(HALVES[[2, 0, 3, 1]], 0.7)) == [1, 3]


@given(rows, st.floats(0, 1), st.integers(1, 40))
def test_what_is_kept_is_unchanged_and_the_highest_is_always_kept(logits, top_p: float, top_k: int) -> None:
    for result in (keep_top_p(logits, top_p), keep_top_k(logits, top_k)):
        is_kept = result != -math.inf
        assert torch.equal(result[is_kept], logits[is_kept])
        assert is_kept[logits.argmax()] or (logits[is_kept] == logits.max()).any()
        if not is_kept.all():
            assert logits[~is_kept].max() <= logits[is_kept].min()


@given(rows, st.floats(0.01, 0.99))
def test_the_mass_that_top_p_keeps_is_at_least_top_p(logits, top_p: float) -> None:
    probabilities = logits.double().softmax(-1)
    assert probabilities[keep_top_p(logits, top_p) != -math.inf].sum() >= top_p - 1e-5
