"""A non-blocking standard error: writing never waits for the reader of a pipe.

A pipe that is not being read is full after 64 KB, and the next log line would block the event loop or the engine for
ever. So a separate thread writes. Lines that do not fit in its queue are dropped, and their number is logged once the
pipe is read again.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator

MAX_WAITING_BYTES = 1 << 20
DRAIN_S = 1.0  # at exit, for lines that are not written yet


class UnreadStream(io.TextIOBase):
    """Text that a thread writes to a file descriptor."""

    def __init__(self, descriptor: int, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self._descriptor, self._max_waiting_bytes = descriptor, max_waiting_bytes
        self._condition = threading.Condition()
        # Under the condition:
        self._pieces: deque[bytes] = deque()
        self._num_waiting_bytes = 0  # including those being written
        self._num_lost_lines = 0
        threading.Thread(target=self._run, name="qwartet-stderr", daemon=True).start()

    def write(self, text: str) -> int:
        raw = text.encode("utf-8", "backslashreplace")
        with self._condition:
            if self._num_waiting_bytes + len(raw) > self._max_waiting_bytes:
                self._num_lost_lines += text.count("\n")
            else:
                self._pieces.append(raw)
                self._num_waiting_bytes += len(raw)
                self._condition.notify_all()
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def drain(self, seconds: float) -> None:
        """Waits until everything is written, or for `seconds`."""
        with self._condition:
            self._condition.wait_for(lambda: not self._num_waiting_bytes, seconds)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._pieces)
                raw = b"".join(self._pieces)
                self._pieces.clear()
            self._write_all(raw)
            with self._condition:
                self._num_waiting_bytes -= len(raw)
                if self._num_lost_lines:
                    notice = b"%d log lines were dropped: stderr was not being read\n" % self._num_lost_lines
                    self._pieces.appendleft(notice)
                    self._num_waiting_bytes += len(notice)
                    self._num_lost_lines = 0
                self._condition.notify_all()

    def _write_all(self, raw: bytes) -> None:
        """Gives up if the other end is gone or the disk is full: a log is no reason to stop the server."""
        with contextlib.suppress(OSError):
            while raw:
                try:
                    raw = raw[os.write(self._descriptor, raw) :]
                except BlockingIOError:  # the descriptor is non-blocking
                    select.select([], [self._descriptor], [])


def drain_stderr() -> None:
    """Allows DRAIN_S for pending lines before the process exits abruptly."""
    if isinstance(sys.stderr, UnreadStream):
        sys.stderr.drain(DRAIN_S)


@contextlib.contextmanager
def unread_stderr() -> Iterator[None]:
    """Within the block a thread writes standard error, unless that is not a file."""
    try:
        stream = UnreadStream(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        yield
        return
    sys.stderr.flush()
    try:
        with contextlib.redirect_stderr(stream):
            yield
    finally:
        stream.drain(DRAIN_S)
