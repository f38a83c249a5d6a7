"""Watch with a clock that only the test advances: the timeout counts from the last start."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

import pytest

from qwartet.server.watch import Watch


class ClockLoop:
    """As much of an event loop as a watch uses; `timers` are those that were not cancelled."""

    def __init__(self) -> None:
        self.now, self.num_set = 0.0, 0
        self.timers: list[tuple[float, int, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> object:
        return self.call_at(self.now + delay, call)

    def call_at(self, when: float, call: Callable[[], None]) -> object:
        self.num_set += 1
        entry = (when, self.num_set, call)
        heapq.heappush(self.timers, entry)
        loop = self

        class Handle:
            def cancel(self) -> None:
                if entry in loop.timers:
                    loop.timers.remove(entry)

        return Handle()

    def advance(self, to: float) -> None:
        while self.timers and self.timers[0][0] <= to:
            self.now, _, call = heapq.heappop(self.timers)
            call()
        self.now = to


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> ClockLoop:
    clock = ClockLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    return clock


@pytest.mark.parametrize("begun_s", [0.0, 3.0, 9.9])
def test_what_does_not_come_is_noticed_when_its_time_is_up(loop: ClockLoop, begun_s: float) -> None:
    late: list[float] = []
    with Watch(10, lambda: late.append(loop.now)) as watch:
        loop.advance(begun_s)
        watch.start()
        loop.advance(40)
    assert late == [begun_s + 10]  # and once


def test_what_comes_in_time_is_not_noticed_and_sets_no_timer_of_its_own(loop: ClockLoop) -> None:
    late: list[float] = []
    with Watch(10, lambda: late.append(loop.now)) as watch:
        for tenth in range(1000):
            loop.advance(tenth / 10)
            watch.start()
        watch.stop()
        loop.advance(200)
    assert not late and loop.num_set < 30


def test_nothing_is_noticed_after_the_end(loop: ClockLoop) -> None:
    late: list[float] = []
    with Watch(10, lambda: late.append(loop.now)) as watch:
        watch.start()
    loop.advance(100)
    assert not late and not loop.timers
