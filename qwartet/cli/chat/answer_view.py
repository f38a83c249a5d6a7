"""Shows an answer as it arrives: rendered Markdown on a terminal that can move its cursor, otherwise plain text.

What the model thinks before it is shown dimmed, on terminals only: the output of a command is the answer.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

from qwartet.cli.terminal import direct, inert, printable
from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.thinking import END_THINK, THINK

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segment

REFRESH_S = 0.1
_DIM, _NORMAL = "\x1b[2m", "\x1b[0m"
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class TextView(Protocol):
    """Takes the text of an answer piece by piece."""

    def show(self, piece: str) -> None:
        """Shows what was added."""

    def end(self) -> None:
        """Ends the last line; the answer may be unfinished."""


def answer_view(wants_markdown: bool) -> AnswerView:
    """The view for standard output."""
    if wants_markdown and can_move_cursor():
        return AnswerView(MarkdownView(direct(sys.stdout)))
    return AnswerView(PlainView())


def can_move_cursor() -> bool:
    """Whether standard output is a terminal that obeys escape sequences."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


class AnswerView:
    """Takes an answer piece by piece: its thinking, then its text."""

    def __init__(self, text_view: TextView) -> None:
        self.text_view = text_view
        self._tags = (_DIM, _NORMAL) if can_move_cursor() else (f"{THINK}\n", f"\n{END_THINK}")
        self._is_thinking = False

    def show(self, delta: AnswerDelta) -> None:
        """Shows what was added."""
        if delta.reasoning and sys.stdout.isatty():
            begin, self._is_thinking = "" if self._is_thinking else self._tags[0], True
            print(begin + inert(delta.reasoning), end="", file=direct(sys.stdout), flush=True)
        if delta.text:
            self._end_thinking()
            self.text_view.show(delta.text)

    def end(self) -> None:
        """Ends the last line; the answer may be unfinished."""
        self._end_thinking()
        self.text_view.end()

    def _end_thinking(self) -> None:
        if self._is_thinking:
            print(f"{self._tags[1]}\n", file=direct(sys.stdout), flush=True)
            self._is_thinking = False


class PlainView:
    """Prints every piece at once; on a terminal without control characters."""

    def show(self, piece: str) -> None:
        """See TextView."""
        print(printable(piece, sys.stdout), end="", flush=True)

    def end(self) -> None:
        """See TextView."""
        print()


class MarkdownView:
    """Prints each block (paragraph, list, code) for good once it is complete; the growing one is redrawn.

    While a block taller than the terminal grows, its last lines are shown: what has scrolled away cannot be redrawn. A
    newline is a line break, as in all chats.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._stream = stream
        self._console: Console = Console(file=stream, highlight=False)
        self._block: list[str] = []  # complete lines of the growing block
        self._line = ""  # the growing line
        self._fence = ""  # what closes the open code block
        self._num_drawn = 0  # terminal lines of the growing block
        self._drawn_s = 0.0
        self._is_first = True

    def show(self, piece: str) -> None:
        """See TextView."""
        *lines, self._line = (self._line + inert(piece)).split("\n")
        for line in lines:
            self._take(line)
        if time.monotonic() - self._drawn_s >= REFRESH_S:
            self._drawn_s = time.monotonic()
            self._draw([*self._block, self._line], most=max(self._console.height - 2, 1))

    def end(self) -> None:
        """See TextView."""
        self._take(self._line)
        self._line = ""
        self._finish()
        if self._is_first:
            print(file=self._stream)

    def _take(self, line: str) -> None:
        """Adds a complete line; a blank one outside code ends the block."""
        fence = _FENCE.match(line)
        if self._fence:
            if fence is not None and fence[1].startswith(self._fence) and not line.strip(" `~"):
                self._fence = ""
        elif fence is not None:
            self._fence = fence[1]
        elif not line.strip():
            self._finish()
            return
        self._block.append(line)

    def _finish(self) -> None:
        """Prints the block for good."""
        if self._block:
            self._draw(self._block)
            self._block = []
            self._num_drawn, self._is_first, self._fence = 0, False, ""

    def _draw(self, block: list[str], most: int | None = None) -> None:
        """Draws the block, or its last `most` terminal lines, in place of what was drawn of it before."""
        from rich.segment import Segment, Segments

        lines = self._rendered(block)
        if self._num_drawn:
            self._stream.write(f"\x1b[{self._num_drawn}F\x1b[J")  # up to the first line, and clear from there on
        if most is not None:
            lines = lines[-most:]
        for line in lines:
            self._console.print(Segments([*line, Segment.line()]))
        self._stream.flush()
        self._num_drawn = len(lines)

    def _rendered(self, block: list[str]) -> list[list[Segment]]:
        """Terminal lines; one blank line between blocks replaces the block's own."""
        from rich.markdown import Markdown
        from rich.segment import Segment

        is_code = any(map(_FENCE.match, block))
        text = ("\n" if is_code else "  \n").join(block)
        markdown = Markdown(text, code_theme="ansi_dark", hyperlinks=False)  # themes without a background
        lines = [_shortened(line) for line in self._console.render_lines(markdown, pad=False)]
        while lines and not lines[0]:
            del lines[0]
        while lines and not lines[-1]:
            del lines[-1]
        if not lines:  # a marker alone, such as "1.", renders to nothing
            lines = [[Segment(line)] for line in block]
        return lines if self._is_first else [[Segment("")], *lines]


def _shortened(line: list[Segment]) -> list[Segment]:
    """A line without the spaces at its end, unless they have a background."""
    line = list(line)
    while line and (line[-1].style is None or line[-1].style.bgcolor is None):
        if text := line[-1].text.rstrip():
            line[-1] = line[-1]._replace(text=text)
            break
        line.pop()
    return line
