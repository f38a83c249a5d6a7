"""Text that knows which of its characters a chat template wrote, and which came with the request.

    marks   1 1 1 1 1 1 1 0 0 0 0 0 1 1 1
    text    < | u s e r > h e l l o < | >

A character is marked FROM_TEMPLATE when it stands in the template; every operation of a template carries the marks
along. Only characters marked so can form a special token. What carries no marks is from the request: an operation that
forgets the marks makes text inert, and never the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

FROM_REQUEST, FROM_TEMPLATE, TAG = 0, 1, 2
"""Marks; a TAG is a text that is inserted into a message and found again in the prompt."""

_FROM_TEMPLATE_RUN = re.compile(rb"\x01+")
_TAG_RUN = re.compile(rb"\x02+")


class Traced(str):
    """A text with a mark for each character; methods of str on it give text without marks."""

    __slots__ = ("marks",)
    marks: bytes

    def __new__(cls, text: str, marks: bytes) -> Traced:
        """`marks`: one byte for each character."""
        assert len(text) == len(marks), (len(text), len(marks))
        traced = super().__new__(cls, text)
        traced.marks = marks
        return traced

    def __reduce__(self) -> tuple[type[Traced], tuple[str, bytes]]:
        return Traced, (str(self), self.marks)


def literal(text: str) -> Traced:
    """A text that stands in the template."""
    return Traced(text, b"\x01" * len(text))


def tag(text: str) -> Traced:
    """A text to be found again."""
    return Traced(text, b"\x02" * len(text))


def marks_of(text: str) -> bytes:
    """The marks of a text."""
    return text.marks if isinstance(text, Traced) else bytes(len(text))


def is_literal(text: str) -> bool:
    """Whether all of a text stands in the template."""
    return not text or (isinstance(text, Traced) and text.marks.count(FROM_TEMPLATE) == len(text))


def remarked(text: str, like: str) -> str:
    """A text made of `like` character by character, or of all of it: with its marks where the lengths are equal, else
    from the template only if all of `like` is.
    """
    if not isinstance(like, Traced):
        return str(text)
    if len(text) == len(like):
        return Traced(text, like.marks)
    return literal(text) if is_literal(like) else str(text)


def piece(text: str, start: int | None, stop: int | None, step: int | None = None) -> str:
    """text[start:stop:step]."""
    part = text[start:stop:step]
    return Traced(part, text.marks[start:stop:step]) if isinstance(text, Traced) else part


def joined(parts: Iterable[str], separator: str = "") -> str:
    """separator.join(parts)."""
    parts = list(parts)
    text = separator.join(parts)
    if not isinstance(separator, Traced) and not any(isinstance(part, Traced) for part in parts):
        return text
    return Traced(text, marks_of(separator).join(map(marks_of, parts)))


def repeated(text: str, count: int) -> str:
    """text * count."""
    return Traced(text * count, text.marks * count) if isinstance(text, Traced) else text * count


def template_runs(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of every longest run of characters from the template."""
    return (run.span() for run in _FROM_TEMPLATE_RUN.finditer(marks_of(text)))


def last_tag(text: str) -> tuple[int, int] | None:
    """Start and end of the last run of characters of a tag."""
    runs = list(_TAG_RUN.finditer(marks_of(text)))
    return runs[-1].span() if runs else None
