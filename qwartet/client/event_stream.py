"""Server-sent events, parsed from bytes as they arrive, in linear time and bounded memory.

    : ping                          a comment, which only keeps the connection alive
    event: error                    the name of the event, if it has one
    data: {"choices": [...          its lines, joined by newlines
                                    an empty line ends the event

Lines end with LF, CR or CRLF, and bytes may arrive in any pieces. An event that is incomplete when the stream ends is
discarded. Source: the HTML standard, 9.2 "Server-sent events".
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qwartet.errors import ServerError

MAX_EVENT_BYTES = 2**20  # limit of a line, and of all lines of an event together

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class Event:
    """One event of a stream."""

    data: str
    name: str = "message"


def events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """The events of a stream; ServerError if one is too long."""
    name, num_bytes = "", 0
    data: list[str] = []
    for line in _lines(chunks):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                yield Event("\n".join(data), name or "message")
            name, data, num_bytes = "", [], 0
        elif field == b"data":
            num_bytes += len(line) + 1  # an empty line takes memory too
            _check_size(num_bytes)
            data.append(value.decode("utf-8", "replace"))
        elif field == b"event":
            name = value.decode("utf-8", "replace")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Complete lines, without line ends and without a leading byte order mark."""
    line, after_cr, is_first = bytearray(), False, True
    for chunk in chunks:
        if after_cr and chunk:
            chunk, after_cr = chunk.removeprefix(b"\n"), False
        if not chunk:
            continue
        after_cr = chunk.endswith(b"\r")
        first, *others = _LINE_END.split(chunk)
        line += first
        for other in others:
            _check_size(len(line))
            yield bytes(line).removeprefix(codecs.BOM_UTF8) if is_first else bytes(line)
            line, is_first = bytearray(other), False
        _check_size(len(line))


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_EVENT_BYTES:
        raise ServerError(
            f"the server sent an event of more than {MAX_EVENT_BYTES} bytes; is this an OpenAI-compatible API?"
        )
