"""Signals that end a process, as exceptions: work that is under way removes what it has written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ends_cleanly() -> Iterator[None]:
    """In the block, SIGTERM and SIGHUP raise SystemExit, with the exit code of a process that a signal ended.

    A signal that is ignored, as SIGHUP is below nohup, stays ignored.
    """

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
