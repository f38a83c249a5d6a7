"""A terminal that knows the few control sequences that our programs write; lines that scrolled away are kept."""

from __future__ import annotations

import re
import unicodedata


class Screen:
    """A terminal of so many rows and columns."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows, self._columns = rows, columns
        self._lines: list[list[str]] = [[]]
        self._row = self._column = 0

    def feed(self, text: str) -> str:
        """All lines after a text was written, each ending with a newline but the last."""
        for control, character in re.findall(r"(\x1b\[[?0-9;]*[A-Za-z])|(.)", text, re.DOTALL):
            if control:
                self._obey(control)
            elif character == "\n":
                self._go_to(self._row + 1, 0)
            elif character == "\r":
                self._column = 0
            else:
                self._write(character)
        return "\n".join("".join(line) for line in self._lines)

    def _obey(self, control: str) -> None:
        if control.endswith("F"):  # up, but not above the first row that is still on the screen
            top = max(len(self._lines) - self._rows, 0)
            self._row, self._column = max(self._row - int(control[2:-1] or 1), top), 0
        elif control.endswith("J"):
            del self._lines[self._row][self._column :], self._lines[self._row + 1 :]
        else:
            assert control.endswith("m"), control

    def _go_to(self, row: int, column: int) -> None:
        self._row, self._column = row, column
        while len(self._lines) <= row:
            self._lines.append([])

    def _write(self, character: str) -> None:
        width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if self._column + width > self._columns:
            self._go_to(self._row + 1, 0)
        line = self._lines[self._row]
        line += [" "] * (self._column - len(line))
        line[self._column : self._column + width] = [character] + [""] * (width - 1)
        self._column += width
