"""Which requests get how many tokens in the next step. Integers only: no tensor is seen here.

First come, first served. Prefill and decode are the same thing: a request has some tokens that are not
computed yet, and gets as many of them as the step's budget allows. When the cache is full the youngest
running request gives its blocks back and is computed again later (preemption by recompute).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from qwartet.engine.block_manager import BlockManager
from qwartet.engine.request import Request


@dataclass(frozen=True)
class ScheduledRequest:
    """A request and how many of its tokens this step computes."""

    request: Request
    num_scheduled_tokens: int

    @property
    def needs_logits(self) -> bool:
        """Whether the step reaches the request's last token, so that a new one can be sampled."""
        return self.request.num_computed_tokens + self.num_scheduled_tokens == self.request.num_tokens


@dataclass(frozen=True)
class Schedule:
    """The work of one step."""

    scheduled: tuple[ScheduledRequest, ...]

    @property
    def num_tokens(self) -> int:
        return sum(item.num_scheduled_tokens for item in self.scheduled)


class Scheduler:
    """Keeps the waiting and the running requests."""

    def __init__(self, block_manager: BlockManager, *, max_num_batched_tokens: int, max_num_seqs: int) -> None:
        self.block_manager = block_manager
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_num_seqs = max_num_seqs
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    @property
    def has_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Queues a request."""
        self.waiting.append(request)

    def schedule(self) -> Schedule:
        """Decides the next step; running requests come first, in the order of their arrival."""
        budget = self.max_num_batched_tokens
        scheduled: list[ScheduledRequest] = []
        num_running = len(self.running)
        for request in list(self.running):
            if request not in self.running or budget == 0:  # preempted for an older one, or no room in this step
                continue
            num_tokens = min(request.num_tokens - request.num_computed_tokens, budget)
            if self._make_room(request, request.num_computed_tokens + num_tokens):
                scheduled.append(ScheduledRequest(request, num_tokens))
                budget -= num_tokens
        num_preempted = num_running - len(self.running)
        while self.waiting and not num_preempted and budget > 0 and len(self.running) < self.max_num_seqs:
            request = self.waiting[0]
            num_tokens = min(request.num_tokens, budget)
            if not self.block_manager.grow(request, num_tokens):
                break
            self.running.append(self.waiting.popleft())
            scheduled.append(ScheduledRequest(request, num_tokens))
            budget -= num_tokens
        return Schedule(tuple(scheduled))

    def _make_room(self, request: Request, num_tokens: int) -> bool:
        """Grows the request's blocks, preempting younger ones for it; False when it had to be preempted itself."""
        while not self.block_manager.grow(request, num_tokens):
            victim = self.running.pop()
            self.block_manager.release(victim)
            victim.num_computed_tokens = 0
            self.waiting.appendleft(victim)
            if victim is request:
                return False
        return True

    def finish(self, request: Request) -> None:
        """Forgets a request that ended or was aborted, wherever it stands."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self.block_manager.release(request)
