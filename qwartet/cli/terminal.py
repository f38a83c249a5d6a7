"""Removes control characters from everything that the command line writes to a terminal, and translates sentences.

Our own output goes through `one_line`, `error_line`, `printable` or `json_line`; the first two translate it. Output of
libraries (warnings, tracebacks, logs, usage) goes through a stream that filters it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from qwartet import inert_text
from qwartet.cli.language.catalogue import translate
from qwartet.inert_text import inert as inert
from qwartet.inert_text import json_line as json_line

_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")


def one_line(text: str) -> str:
    """A sentence in the language of the user, on one line and inert."""
    return inert_text.one_line(translate(text))


def error_line(text: str) -> str:
    """The same for an error or a warning, which are shorter."""
    return inert_text.error_line(translate(text))


def whole_text(text: str) -> str:
    """Text that can be encoded: what stands for bytes that are no text, or for half a character, becomes U+FFFD."""
    return _HALF_CHARACTER.sub("\ufffd", text)


def printable(text: str, stream: TextIO) -> str:
    """Text as it may be written to a stream: made inert for a terminal, unchanged for a file or a pipe."""
    return inert(text) if stream.isatty() else text


class InertStream:
    """A terminal to which only inert text is written; `direct` is for those who draw on it."""

    def __init__(self, direct: TextIO) -> None:
        self.direct = direct

    def write(self, text: str) -> int:
        return self.direct.write(inert(text))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.direct, name)


def guard_terminals() -> None:
    """From here on, whatever this process writes to stdout and stderr as text is inert where they are terminals."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, InertStream) and stream is not None and stream.isatty():
            setattr(sys, name, InertStream(stream))


def direct(stream: TextIO) -> TextIO:
    """The stream itself, for a bar that moves the cursor and shows nothing of others."""
    return stream.direct if isinstance(stream, InertStream) else stream
