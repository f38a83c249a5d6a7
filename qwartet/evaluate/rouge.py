"""ROUGE-L: how much of two texts is a common subsequence of words."""

from __future__ import annotations

from collections.abc import Sequence


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by bit vectors (Hyyrö 2004): a row of the table is one number, of which bit i is 0 where it grows."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    all_places = (1 << len(first)) - 1
    row = all_places
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & all_places
    return len(first) - row.bit_count()


def rouge_l(found: Sequence[str], reference: Sequence[str]) -> float:
    """The F measure: the harmonic mean of the common subsequence's share of each; 0 where one has no words."""
    if not found or not reference:
        return 0.0
    common = longest_common_subsequence(reference, found)
    precision, recall = common / len(found), common / len(reference)
    return 2 * precision * recall / (precision + recall) if common else 0.0
