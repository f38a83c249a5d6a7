"""A table of text: headings, rows, and its Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qwartet.inert_text import one_line

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
NONE = "-"
_SPECIAL = re.compile(r"([\\`*_\[\]<>|&#~])")


@dataclass(frozen=True)
class Table:
    """Cells are plain text; whatever Markdown would read in them is escaped."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 1  # columns of text, aligned left; the others hold numbers

    def markdown(self) -> str:
        """ValueError for a row of another width."""
        width = len(self.headings)
        if any(len(row) != width for row in self.rows):
            raise ValueError(f"a row of the table under {self.headings} has not {width} cells")
        aligned = ["---" if index < self.num_names else "---:" for index in range(width)]
        lines = [map(plain, self.headings), aligned, *(map(plain, row) for row in self.rows)]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plain(text: str) -> str:
    """Markdown that shows a text as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", one_line(text))


def fenced(text: str, language: str = "") -> str:
    """A block of code with a text as it is, whatever back-ticks are in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
