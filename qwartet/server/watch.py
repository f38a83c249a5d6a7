"""A timeout that is restarted often: one timer instead of one per restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watch:
    """Calls `on_late` if neither `start` nor `stop` is called within `seconds` after `start`; a context manager."""

    def __init__(self, seconds: float, on_late: Callable[[], object]) -> None:
        self._seconds, self._on_late = seconds, on_late
        self._loop = asyncio.get_running_loop()
        self._due_s: float | None = None

    def start(self) -> None:
        """Restarts the timeout."""
        self._due_s = self._loop.time() + self._seconds

    def stop(self) -> None:
        """Cancels the timeout."""
        self._due_s = None

    def __enter__(self) -> Watch:
        self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now_s = self._loop.time()
        if self._due_s is not None and now_s >= self._due_s:
            self._due_s = None
            self._on_late()
        # A later start is due no earlier than this.
        self._timer = self._loop.call_at(self._due_s or now_s + self._seconds, self._look)
