"""Intervals and paired tests against values from textbooks and by hand."""

from __future__ import annotations

from math import comb

import pytest

from qwartet.evaluate.statistics import mcnemar, mean_interval, paired_difference, wilson_interval


def test_wilsons_interval() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)  # z² / (10 + z²)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998: 81 of 263
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    low, high = wilson_interval(10, 10)
    assert (low, high) == pytest.approx((1 - 0.2775, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match="at least one"):
        wilson_interval(0, 0)


def test_the_interval_of_a_mean() -> None:
    low, high = mean_interval([1.0, 2.0, 3.0])  # deviation 1, so 1.96 / sqrt(3)
    assert (low, high) == pytest.approx((2 - 1.1316, 2 + 1.1316), abs=1e-4)
    assert mean_interval([4.0]) == (4.0, 4.0)


def test_mcnemar_is_the_sign_test_of_the_items_that_differ() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(1, 9) == pytest.approx(2 * (comb(10, 0) + comb(10, 1)) / 2**10)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    assert mcnemar(900, 1100) == pytest.approx(8.6e-6, rel=0.1)  # normal approximation: z = 4.45
    assert mcnemar(0, 5000) == 0.0


def test_two_runs_are_compared_item_by_item() -> None:
    first, second = [1.0, 1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 0.0]
    found = paired_difference(first, second)
    assert (found.num_only_first, found.num_only_second, found.count) == (2, 1, 5)
    assert (found.first, found.second) == (0.6, 0.4)
    assert found.low < -0.2 < found.high and found.p_value == 1.0
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [])
