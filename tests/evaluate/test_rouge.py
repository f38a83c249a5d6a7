"""ROUGE-L against values by hand, and the common subsequence against its textbook table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.evaluate.rouge import longest_common_subsequence, rouge_l


def by_table(first: list[str], second: list[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


WORDS = st.lists(st.sampled_from("abc"), max_size=80)


@given(WORDS, WORDS)
def test_the_common_subsequence_is_that_of_the_table(first: list[str], second: list[str]) -> None:
    assert longest_common_subsequence(first, second) == by_table(first, second)


@pytest.mark.parametrize(
    ("found", "reference", "value"),
    [
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),  # Lin 2004: the order counts
        ("a b", "a x b y", 2 * 1 * 0.5 / 1.5),
        ("a b c d", "a b", 2 * 0.5 * 1 / 1.5),
        ("a", "b", 0.0),
        ("", "b", 0.0),
        ("a", "", 0.0),
    ],
)
def test_the_f_measure(found: str, reference: str, value: float) -> None:
    assert rouge_l(found.split(), reference.split()) == pytest.approx(value)
