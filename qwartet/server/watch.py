"""What happens when something does not come in time, where it comes often: a timer is set once, not for each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watch:
    """Calls `on_late` when `seconds` have passed since `start` without `stop` or another `start`; runs as a context."""

    def __init__(self, seconds: float, on_late: Callable[[], object]) -> None:
        self._seconds, self._on_late = seconds, on_late
        self._loop = asyncio.get_running_loop()
        self._due_s: float | None = None

    def start(self) -> None:
        """The time runs anew."""
        self._due_s = self._loop.time() + self._seconds

    def stop(self) -> None:
        """Nothing is waited for."""
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
        # Whatever is started from now on is due no earlier than this.
        self._timer = self._loop.call_at(self._due_s or now_s + self._seconds, self._look)
