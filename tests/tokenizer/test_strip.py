"""A text in pieces, stripped."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.tokenizer.strip import stripped


def pieces_of(parts: list[str], closed: list[bool] | None = None) -> Generator[str, None, int]:
    try:
        yield from parts
        return 7
    finally:
        if closed is not None:
            closed.append(True)


@given(st.lists(st.text(" \n\tab\u3000", max_size=4), max_size=8))
def test_the_pieces_together_are_the_stripped_text(parts: list[str]) -> None:
    pieces = list(stripped(pieces_of(parts)))
    assert "".join(pieces) == "".join(parts).strip()
    assert all(pieces)


def test_a_piece_does_not_wait_for_the_next_one() -> None:
    stream = stripped(pieces_of([" a", "b ", " c"]))
    assert [next(stream), next(stream), next(stream)] == ["a", "b", "  c"]


def test_the_value_is_that_of_the_pieces() -> None:
    def value() -> Generator[str, None, int]:
        return (yield from stripped(pieces_of(["a"])))

    stream = value()
    next(stream)
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value == 7


def test_closing_closes_the_pieces() -> None:
    closed: list[bool] = []
    stream = stripped(pieces_of(["a", "b"], closed))
    next(stream)
    assert not closed
    stream.close()
    assert closed
