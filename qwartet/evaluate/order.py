"""In which order questions are asked, so that what they have in common is computed once."""

from __future__ import annotations

from collections.abc import Sequence


def leaders_ahead(prefixes: Sequence[str]) -> list[int]:
    """Indices, questions of one prefix together, and the first of each prefix before the rest of the one before it.

    A prefix is then in the cache when the questions that share it arrive, and the batch stays full meanwhile. Questions
    without a prefix keep their order among themselves.
    """
    groups: dict[str, list[int]] = {}
    for index, prefix in enumerate(prefixes):
        groups.setdefault(prefix or f"\0{index}", []).append(index)
    order: list[int] = []
    waiting: list[int] = []
    for leader, *rest in groups.values():
        order.append(leader)
        order += waiting
        waiting = rest
    return order + waiting
