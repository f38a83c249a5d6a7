"""Speculative decoding: draft tokens cheaply, verify them all in one step, keep those that are right. Integers only.

One step with k drafts reads the weights once and yields 1 to k + 1 tokens; the drafts cost arithmetic. So draft j
pays if it yields more tokens per second than the step does without it, with as many drafts for the other requests:

    P(drafts 1 .. j are accepted)  >  seconds that it adds / seconds of the step so far * tokens of the step so far

Acceptance is counted for each request, costs are fitted to past steps. A request whose drafts fail gets none for
1, 2, 4, ... 64 tokens. Accepted tokens are those that would have been sampled anyway: only time is at stake.
Sources: Leviathan et al. 2023; prompt lookup: Saxena 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qwartet.engine.request import Request
from qwartet.engine.scheduler import ScheduledRequest
from qwartet.engine.step_stats import StepStats

MAX_DRAFTS = 15  # of one request in one step
MAX_PAUSE = 64  # tokens
NGRAM = 3  # ids that must agree
_FIRST_CHANCE, _FIRST_WEIGHT = 0.6, 2.0  # prior, before any draft is counted
_MEMORY = 0.9  # of a count, from one draft to the next


class Drafter(Protocol):
    """Proposes draft tokens."""

    def num_possible(self, request: Request, most: int) -> int:
        """How many tokens it would draft for a request that decodes."""
        ...

    def propose(self, items: Sequence[ScheduledRequest]) -> None:
        """Sets the draft_ids of each item's request, at most num_draft_tokens of them."""
        ...

    def release(self, request: Request) -> None: ...


@dataclass
class _Record:
    """The acceptance record of one request."""

    num_accepted: float = _FIRST_CHANCE * _FIRST_WEIGHT
    num_judged: float = _FIRST_WEIGHT
    num_failures: int = 0  # consecutive steps without an accepted draft
    pause: int = 0  # steps left without drafts

    @property
    def chance(self) -> float:
        return self.num_accepted / self.num_judged

    def count(self, num_drafted: int, num_accepted: int) -> None:
        """Drafts after a rejected one are not counted."""
        for is_right in [True] * num_accepted + [False] * (num_accepted < num_drafted):
            self.num_accepted = self.num_accepted * _MEMORY + is_right
            self.num_judged = self.num_judged * _MEMORY + 1
        self.num_failures = 0 if num_accepted else self.num_failures + 1
        self.pause = 0 if num_accepted else min(2 ** (self.num_failures - 1), MAX_PAUSE)


class StepCost:
    """Seconds of a step by its tokens, a line fitted to the latest steps; before the first, 10 % per token."""

    _MEMORY, _PRIOR_WEIGHT, _PRIOR_SLOPE = 0.98, 4.0, 0.1
    MOST_TOKENS = 64  # of a step that is counted: beyond, the cost is not linear

    def __init__(self) -> None:
        self._weight = self._tokens = self._seconds = self._tokens2 = self._product = 0.0

    def count(self, num_tokens: int, seconds: float) -> None:
        """Records a step."""
        if num_tokens > self.MOST_TOKENS:
            return
        decay = self._MEMORY
        self._weight = self._weight * decay + 1
        self._tokens = self._tokens * decay + num_tokens
        self._seconds = self._seconds * decay + seconds
        self._tokens2 = self._tokens2 * decay + num_tokens**2
        self._product = self._product * decay + num_tokens * seconds

    def of_a_token(self, num_tokens: int) -> float:
        """Seconds that one more token adds to a step of `num_tokens`, as a fraction of the step."""
        if not self._weight:
            return self._PRIOR_SLOPE
        tokens, seconds = self._tokens / self._weight, self._seconds / self._weight
        spread = self._tokens2 - self._weight * tokens**2
        together = self._product - self._weight * tokens * seconds
        slope = (together + self._PRIOR_WEIGHT * self._PRIOR_SLOPE * seconds) / (spread + self._PRIOR_WEIGHT)
        slope = min(max(slope, 0.0), seconds / tokens)  # neither a token nor an empty step takes negative time
        return slope / (seconds - slope * (tokens - num_tokens))


@dataclass
class Speculation:
    """Decides how many tokens to draft, and counts how many are accepted."""

    drafter: Drafter
    cost: StepCost = field(default_factory=StepCost)
    num_drafted: int = 0  # in total
    num_accepted: int = 0
    _records: dict[int, _Record] = field(default_factory=dict)
    _is_warm: bool = False

    def num_wanted(self, request: Request, num_running: int) -> int:
        """Tokens worth drafting for a request that decodes, with `num_running` requests in the step."""
        record = self._records.setdefault(request.request_id, _Record())
        if record.pause:
            record.pause -= 1
            return 0
        cost = self.cost.of_a_token(num_running) * num_running  # of one draft per request, in steps without drafts
        count, tokens, chance = 0, 1.0, record.chance
        while count < MAX_DRAFTS and chance > cost / (1 + cost * count) * tokens:
            count, tokens, chance = count + 1, tokens + chance, chance * record.chance
        if record.num_failures:
            count = max(count, 1)  # the pause is over: one try
        return self.drafter.num_possible(request, count) if count else 0

    def propose(self, items: Sequence[ScheduledRequest]) -> None:
        """Sets the drafts of the requests, as far as their constraints allow them."""
        for item in items:
            item.request.draft_ids = []
        wanted = [item for item in items if item.num_draft_tokens]
        if wanted:
            self.drafter.propose(wanted)
        for item in wanted:
            request = item.request
            if request.constraint is not None:
                request.draft_ids = request.draft_ids[: request.constraint.count_valid(request.draft_ids)]

    def judge(self, request: Request, num_new_tokens: int) -> int:
        """Records a step that gave a request `num_new_tokens`; returns how many of its drafts were accepted."""
        num_drafted = len(request.draft_ids)
        num_accepted = min(max(num_new_tokens - 1, 0), num_drafted)  # no new token at all: an error
        if num_drafted:
            self._records[request.request_id].count(num_drafted, num_accepted)
        return num_accepted

    def observe(self, stats: StepStats) -> None:
        """Records the cost of a step, and its drafts.

        An engine's first step reads its weights into the caches for the first time; its cost would be held against
        drafts for a hundred steps.
        """
        if self._is_warm:
            self.cost.count(stats.num_tokens, stats.seconds)
        self._is_warm = True
        self.num_drafted += stats.num_drafted
        self.num_accepted += stats.num_accepted

    def release(self, request: Request) -> None:
        """Drops the record of a request that ended."""
        self._records.pop(request.request_id, None)
        self.drafter.release(request)


class NoDrafts:
    """A Drafter that proposes nothing."""

    def num_possible(self, request: Request, most: int) -> int:
        return 0

    def propose(self, items: Sequence[ScheduledRequest]) -> None:
        raise AssertionError("no drafts were scheduled")

    def release(self, request: Request) -> None:
        pass


class PromptLookup:
    """Proposes what followed the last few ids at their previous occurrence: edits, quotations, code, tables."""

    def __init__(self) -> None:
        self._indexes: dict[int, _NgramIndex] = {}

    def num_possible(self, request: Request, most: int) -> int:
        return len(self._index(request).continuation(most))

    def propose(self, items: Sequence[ScheduledRequest]) -> None:
        for item in items:
            item.request.draft_ids = self._index(item.request).continuation(item.num_draft_tokens)

    def release(self, request: Request) -> None:
        self._indexes.pop(request.request_id, None)

    def _index(self, request: Request) -> _NgramIndex:
        index = self._indexes.setdefault(request.request_id, _NgramIndex())
        index.extend(request.token_ids(len(index.ids), request.num_tokens))
        return index


class _NgramIndex:
    """For every run of NGRAM ids: where it ended last.

    Where the last run is new, but the ids shortly before it are not, one id may have been replaced in a copy: for the
    next NGRAM ids, the drafts come from the same offset in the source.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self._source = self._source_end = 0  # ids from _source on are expected to follow ids[:_source_end]

    def extend(self, new_ids: list[int]) -> None:
        """Records the runs that end before the last id: the run that ends with it is the one to look up."""
        first = max(len(self.ids), NGRAM)
        self.ids += new_ids
        for end in range(first, len(self.ids)):
            self._ends[tuple(self.ids[end - NGRAM : end])] = end

    def continuation(self, most: int) -> list[int]:
        """Ids that followed the last NGRAM ids before; a repetition is assumed to continue."""
        found = self._ends.get(tuple(self.ids[-NGRAM:]))
        if found is not None:
            self._source, self._source_end = found, len(self.ids)
        num_since = len(self.ids) - self._source_end
        if not self._source or num_since > NGRAM:
            return []
        place = self._source + num_since
        drafts: list[int] = []
        for index in range(place, place + most):
            drafts.append(self.ids[index] if index < len(self.ids) else drafts[index - len(self.ids)])
        return drafts
