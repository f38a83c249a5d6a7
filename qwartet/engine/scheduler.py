"""Which requests get how many tokens in the next step. Integers only: no tensor is seen here.

Prefill and decode are the same thing: a request has some tokens that are not computed yet, and the step computes as
many of them as its budget allows.

    1. requests that decode, a token each and their drafts: a long prompt never stalls them for
       more than one chunk, whose length is limited by chunk_limiter.py
    2. prompts that are being computed
    3. waiting requests, as long as there is budget, a free sequence and room in the cache

Within each the smaller priority comes first, then the earlier arrival. That is all the fairness there is: no request is
overtaken by a later one of the same priority, the first that does not fit holds back those behind it, and a running
request is never stopped for a waiting one. When the cache is full, the last running request in that order is preempted:
it gives its blocks back, waits, reuses the blocks that are still cached, and recomputes the rest.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass

from qwartet.engine.block_manager import BlockManager
from qwartet.engine.request import Request


@dataclass(frozen=True)
class ScheduledRequest:
    """A request, how many of its tokens this step computes, and room for how many drafts after them."""

    request: Request
    num_scheduled_tokens: int
    num_draft_tokens: int = 0

    @property
    def needs_token(self) -> bool:
        """Whether the step reaches the request's last token, so that a new one can be sampled."""
        return self.request.num_computed_tokens + self.num_scheduled_tokens == self.request.num_tokens

    @property
    def num_sampled_rows(self) -> int:
        """Rows of logits from which tokens are sampled: one, and one for each draft."""
        return 1 + len(self.request.draft_ids) if self.needs_token else 0

    @property
    def predicted_prompt(self) -> range:
        """The positions of this step whose logits give the probability of the next prompt id."""
        request = self.request
        if request.params.prompt_logprobs is None:
            return range(0)
        start, end = request.num_computed_tokens, request.num_computed_tokens + self.num_scheduled_tokens
        return range(max(start, len(request.prompt_logprobs) - 1), min(end, request.num_prompt_tokens - 1))


@dataclass(frozen=True)
class Schedule:
    """The work of one step."""

    scheduled: tuple[ScheduledRequest, ...]

    @property
    def num_tokens(self) -> int:
        """Including all reserved drafts."""
        return sum(item.num_scheduled_tokens + item.num_draft_tokens for item in self.scheduled)


class Scheduler:
    """Holds the waiting and the running requests."""

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        num_drafts_wanted: Callable[[Request], int] = lambda request: 0,
        chunk_beside_decodes: Callable[[int], int] = lambda budget: budget,
    ) -> None:
        """`num_drafts_wanted` says how many draft tokens are worthwhile for a request that decodes,
        `chunk_beside_decodes` how many of a budget's tokens may be prompt tokens beside such requests.
        """
        self.block_manager = block_manager
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_num_seqs = max_num_seqs
        self.num_drafts_wanted = num_drafts_wanted
        self.chunk_beside_decodes = chunk_beside_decodes
        self.waiting: list[Request] = []  # in order
        self.running: list[Request] = []  # in order

    @property
    def has_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Queues a request."""
        insort(self.waiting, request, key=_order)

    def schedule(self) -> Schedule:
        """Decides the next step; at least one token is scheduled while there are requests."""
        step = _Step(self.max_num_batched_tokens)
        num_running = len(self.running)
        decoding = [request for request in self.running if request.is_decoding]
        prompts = [request for request in self.running if not request.is_decoding]
        self._continue_all(decoding, step)
        if decoding:
            step.budget = self.chunk_beside_decodes(step.budget)
        self._continue_all(prompts, step)
        if len(self.running) == num_running:  # a request preempted just now is not readmitted at once
            self._admit(step)
        return Schedule(tuple(step.items.values()))

    def _continue_all(self, requests: list[Request], step: _Step) -> None:
        for request in requests:
            if step.budget and request in self.running:  # another request may have preempted it
                self._continue(request, step)

    def _continue(self, request: Request, step: _Step) -> None:
        num_tokens = min(request.num_tokens - request.num_computed_tokens, step.budget)
        end = request.num_computed_tokens + num_tokens
        if not self._make_room(request, end, step):
            return
        num_drafts = 0
        if request.is_decoding:
            room = min(step.budget - num_tokens, request.params.max_tokens - len(request.completion_ids) - 1)
            num_drafts = min(self.num_drafts_wanted(request), room) if room > 0 else 0
            if num_drafts and not self._grow(request, end + num_drafts):
                num_drafts = 0  # no request is preempted for a draft
        step.take(ScheduledRequest(request, num_tokens, num_drafts))

    def _make_room(self, request: Request, num_tokens: int, step: _Step) -> bool:
        """Grows the request's blocks, preempting those behind it; False when it had to be preempted itself."""
        while not self._grow(request, num_tokens):
            victim = self.running[-1]
            self._preempt(victim)
            step.items.pop(victim.request_id, None)  # its share of the budget stays unused in this step
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.block_manager.release(request.table)
        request.num_preemptions += 1
        self.add(request)

    def _admit(self, step: _Step) -> None:
        for request in list(self.waiting):
            if not step.budget or len(self.running) >= self.max_num_seqs:
                return
            if request.waits_for_parent:
                continue
            most = _num_without_logits(request)
            num_cached = self.block_manager.adopt_prefix(request.table, request.token_ids, most)
            num_tokens = min(request.num_tokens - num_cached, step.budget)
            if not self._grow(request, num_cached + num_tokens):
                self.block_manager.release(request.table)
                return
            if not request.num_preemptions:
                request.num_cached_tokens = num_cached
            self.waiting.remove(request)
            insort(self.running, request, key=_order)
            step.take(ScheduledRequest(request, num_tokens))

    def finish(self, request: Request) -> None:
        """Removes a request that ended or was aborted, waiting or running."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self.block_manager.release(request.table)

    def _grow(self, request: Request, num_tokens: int) -> bool:
        copies = self.block_manager.grow(request.table, num_tokens)
        assert not copies, "requests share only full blocks, and those are never written again"
        return copies is not None


class _Step:
    """A step being built: its items, and the remaining token budget."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.items: dict[int, ScheduledRequest] = {}  # by request id

    def take(self, item: ScheduledRequest) -> None:
        self.items[item.request.request_id] = item
        self.budget -= item.num_scheduled_tokens + item.num_draft_tokens


def _order(request: Request) -> tuple[int, int]:
    return request.order


def _num_without_logits(request: Request) -> int:
    """How many tokens may come from the cache, plus one: the logits of the others are needed."""
    if request.params.prompt_logprobs is None:
        return request.num_tokens
    is_done = len(request.prompt_logprobs) >= request.num_prompt_tokens
    return request.num_tokens if is_done else len(request.prompt_logprobs)
