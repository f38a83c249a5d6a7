"""How sure a score is, and whether two runs differ by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt

Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations


def wilson_interval(num_right: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson, 1927), each end from 0 to 1. ValueError without items."""
    if count < 1:
        raise ValueError("an interval needs at least one item")
    share, z2 = num_right / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of a mean, by the normal distribution; ValueError without values."""
    if not values:
        raise ValueError("an interval needs at least one value")
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, mean
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = Z * sqrt(variance / len(values))
    return mean - half, mean + half


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """The exact two-sided p-value (McNemar, 1947) that two runs are equally good.

    Of the items that one run alone has right: how many are the first's, how many the second's. Items that both have
    right, or both wrong, say nothing.
    """
    num, least = num_only_first + num_only_second, min(num_only_first, num_only_second)
    if not num:
        return 1.0
    tail: int = sum(comb(num, k) for k in range(least + 1))
    both_tails: float = 2 * tail / 2**num
    return min(both_tails, 1.0)


@dataclass(frozen=True)
class PairedDifference:
    """The second of two runs against the first, on the items of both; scores are from 0 to 1."""

    count: int
    first: float
    second: float
    low: float  # 95 % confidence interval of second less first
    high: float
    num_only_first: int  # items that the first alone has right
    num_only_second: int
    p_value: float


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Compares scores item by item; an item counts as right from 0.5 on. ValueError without items."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    low, high = mean_interval(differences)
    only_first = sum(a >= 0.5 > b for a, b in zip(first, second, strict=True))
    only_second = sum(b >= 0.5 > a for a, b in zip(first, second, strict=True))
    return PairedDifference(
        count=len(differences),
        first=sum(first) / len(first),
        second=sum(second) / len(second),
        low=low,
        high=high,
        num_only_first=only_first,
        num_only_second=only_second,
        p_value=mcnemar(only_first, only_second),
    )
