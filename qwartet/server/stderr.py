"""A non-blocking standard error: writing never waits for the reader of a pipe.

A pipe that is not read is full after 64 KB, and the next log line would block the event loop or the engine for ever. So
a separate thread does the writing. Lines that do not fit its queue are dropped, and their number is logged once the
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
DRAIN_S = 1.0  # at the end, for what is still to be written


class UnreadStream(io.TextIOBase):
    """Text that a thread writes to a file descriptor."""

    def __init__(self, descriptor: int, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self._descriptor, self._max_waiting_bytes = descriptor, max_waiting_bytes
        self._condition = threading.Condition()
        # Under the condition:
        self._pieces: deque[bytes] = deque()
        self._num_waiting_bytes = 0  # those that are being written included
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
        """Waits until all is written, at most so long."""
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
                    told = b"%d lines of the log were lost: nobody read them\n" % self._num_lost_lines
                    self._pieces.appendleft(told)
                    self._num_waiting_bytes += len(told)
                    self._num_lost_lines = 0
                self._condition.notify_all()

    def _write_all(self, raw: bytes) -> None:
        """Gives up where the other end is gone or the disk is full: a log is no reason to stop."""
        with contextlib.suppress(OSError):
            while raw:
                try:
                    raw = raw[os.write(self._descriptor, raw) :]
                except BlockingIOError:  # whoever opened it said so
                    select.select([], [self._descriptor], [])


def drain_stderr() -> None:
    """Gives what is still to be written a moment, before a process ends at once."""
    if isinstance(sys.stderr, UnreadStream):
        sys.stderr.drain(DRAIN_S)


@contextlib.contextmanager
def unread_stderr() -> Iterator[None]:
    """Standard error is written by a thread for a while; without one that is a file, nothing is changed."""
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
