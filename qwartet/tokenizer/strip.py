"""Strips whitespace from both ends of a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Value = TypeVar("Value")


def stripped(pieces: Generator[str, None, Value]) -> Generator[str, None, Value]:
    """The text stripped; whitespace is held back until text follows. Returns the value of `pieces`, and closes it."""
    held: list[str] = []
    begun = False
    try:
        while True:
            piece = next(pieces)
            kept = piece.rstrip()
            if kept:
                yield "".join([*held, kept]) if begun else kept.lstrip()
                begun, held = True, [piece[len(kept) :]]
            elif begun:
                held.append(piece)
    except StopIteration as end:
        value: Value = end.value
        return value
    finally:
        pieces.close()
