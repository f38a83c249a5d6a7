"""Records become figures: shares with their intervals, of all items and by group."""

from __future__ import annotations

from collections.abc import Sequence

from qwartet.evaluate.question import Figure, Record
from qwartet.evaluate.statistics import mean_interval, wilson_interval


def score_of(record: Record) -> float:
    """A record's score; a question without an answer counts as wrong."""
    return record.score or 0.0


def share(name: str, records: Sequence[Record]) -> Figure:
    """The mean score in per cent: with Wilson's interval where every score is 0 or 1."""
    scores = [score_of(record) for record in records]
    if all(score in (0.0, 1.0) for score in scores):
        low, high = wilson_interval(sum(scores), len(scores))
    else:
        low, high = mean_interval(scores)
    return Figure(name, 100 * sum(scores) / len(scores), len(scores), 100 * low, 100 * high)


def by_group(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each group, groups in order of appearance."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return groups


def group_average(name: str, records: Sequence[Record]) -> Figure:
    """The mean over groups of each group's mean score in per cent, as C-Eval averages; groups weigh alike.

    The interval adds the groups' variances: it is that of these groups' mean, not of other groups'.
    """
    groups = list(by_group(records).values())
    means, variance = [], 0.0
    for members in groups:
        scores = [score_of(record) for record in members]
        low, high = mean_interval(scores)
        means.append(sum(scores) / len(scores))
        variance += ((high - low) / 2) ** 2
    mean, half = sum(means) / len(means), variance**0.5 / len(means)
    return Figure(name, 100 * mean, len(records), 100 * max(mean - half, 0.0), 100 * min(mean + half, 1.0))
