"""Random schedules: what arrives and is aborted when, and how little room there is; the oracle says what comes out.

A case is a pure function of its number. It is played on an engine of its own; after each step the blocks are counted
and the limits looked at, and in the end every request must have the right answer of its world (worlds.py) and nothing
may be left behind. What happened on the way is counted, so that a test can ask whether anything did.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from qwartet.engine.draft_model import DraftModel
from qwartet.engine.engine import Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import LogitsProcessor, Request, RequestOptions
from qwartet.engine.scheduler import Schedule
from qwartet.engine.speculate import PromptLookup, StepCost
from tests.engine import worlds
from tests.engine.worlds import KINDS, Answer, Prompt, num_blocks_of

WORLD_WEIGHTS = {
    "fp32": 10, "fp32-int8": 3, "fp32-int4": 2, "bf16": 1, "native": 4, "native-int8": 2, "native-int4": 2,
}  # fmt: skip
MAX_STEPS = 5000
PHASES = ("waiting", "child", "prefill", "decode", "preempted", "leading")
Drafting = Literal["off", "prompt-lookup", "same", "near", "other"]


@dataclass(frozen=True)
class Arrival:
    """A prompt that arrives, and what becomes of it."""

    step: int
    prompt: Prompt = field(repr=False)
    prompt_number: int
    kind: str
    max_tokens: int
    n: int = 1
    priority: int = 0
    stop_place: int | None = None  # the token at this place of the right answer is a stop token
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    salt: str = ""
    fail_place: int | None = None  # a logits processor raises at this place of the answer
    abort_after: int | None = None  # steps after its arrival
    abort_in: str | None = None  # as soon as a step leaves it in this phase
    aborted: int = 0  # which of the children


@dataclass(frozen=True)
class Case:
    """A random schedule."""

    number: int
    world: str
    config: EngineConfig
    drafting: Drafting
    num_valid: int | None
    cost: float  # of a token, as a share of a step: fixed, so that the clock has no say
    arrivals: tuple[Arrival, ...]
    most_beside: int  # tokens of prompts beside requests that decode: fixed, for the same reason


def make_case(number: int, world: str | None = None) -> Case:
    """Case `number`; in another world than its own where one is given."""
    rng = random.Random(f"schedule {number}")
    drawn = rng.choices(list(WORLD_WEIGHTS), list(WORLD_WEIGHTS.values()))[0]
    name = worlds.available(drawn) if world is None else world
    max_model_len = rng.choice((96, 96, 96, 70, 64, 49))
    drafting = rng.choice(("off", "prompt-lookup", "prompt-lookup", *worlds.DRAFTS))
    if drafting not in worlds.world(name).drafts and drafting in worlds.DRAFTS:
        drafting = "same"
    config = EngineConfig(
        max_model_len=max_model_len,
        max_num_seqs=rng.choice((1, 2, 3, 4, 8)),
        max_num_batched_tokens=rng.choice((rng.randint(1, 8), rng.randint(1, 80), rng.randint(16, 80))),
        num_blocks=num_blocks_of(max_model_len) + rng.choice((0, 0, 0, 1, 2, 3, 6, 12)),
        kv_cache_dtype=worlds.world(name).kv_cache_dtype,
        enable_prefix_caching=rng.random() < 0.85,
        speculation="off" if drafting == "off" else "prompt-lookup",
    )
    num_valid = worlds.NUM_FEW if rng.random() < 0.25 else None
    cost = rng.choice((0.0, 0.02, 0.1))
    arrivals = _arrivals(rng, name, max_model_len, num_valid)
    return Case(number, name, config, drafting, num_valid, cost, arrivals, rng.choice((1, 5, 20, 80, 80)))


def _arrivals(rng: random.Random, name: str, max_model_len: int, num_valid: int | None) -> tuple[Arrival, ...]:
    pool = [(i, prompt) for i, prompt in enumerate(worlds.prompts(name)) if len(prompt) < max_model_len]
    pool = rng.sample(pool, rng.randint(1, 6))  # few of them, so that they come again
    kinds = tuple(KINDS) if num_valid is None else ("greedy", "sampled")
    last_step = rng.choice((0, 5, 25))
    has_priorities, has_salts, has_aborts = rng.random() < 0.3, rng.random() < 0.15, rng.random() < 0.5
    arrivals = []
    for _ in range(rng.randint(1, 7)):
        number, prompt = rng.choice(pool)
        max_tokens = rng.randint(1, worlds.NUM_TOKENS)
        room = min(max_tokens, max_model_len - len(prompt))
        arrival = Arrival(
            step=rng.randint(0, last_step),
            prompt=prompt,
            prompt_number=number,
            kind=rng.choice(kinds),
            max_tokens=max_tokens,
            n=rng.choice((1, 1, 1, 1, 2, 3)),
            priority=rng.randint(-2, 2) if has_priorities else 0,
            stop_place=rng.randrange(room) if rng.random() < 0.2 else None,
            logprobs=rng.choice((0, 2)) if rng.random() < 0.2 else None,
            prompt_logprobs=0 if rng.random() < 0.1 else None,
            salt=rng.choice(("", "one", "another")) if has_salts else "",
            fail_place=rng.randrange(room) if rng.random() < 0.05 else None,
        )
        if has_aborts and rng.random() < 0.4:
            arrival = replace(arrival, aborted=rng.randrange(arrival.n), **_abort(rng))
        arrivals.append(arrival)
    return tuple(arrivals)


def _abort(rng: random.Random) -> dict[str, int | str]:
    if rng.random() < 0.5:
        return {"abort_after": rng.randint(0, 25)}
    return {"abort_in": rng.choice((*PHASES, "preempted", "preempted", "leading"))}


class ProcessorError(Exception):
    """What a logits processor of a schedule raises."""


def _failing_processor(arrival: Arrival) -> LogitsProcessor:
    def process(logits: Tensor, token_ids: list[int]) -> Tensor:
        if len(token_ids) - len(arrival.prompt) == arrival.fail_place:
            raise ProcessorError(f"at place {arrival.fail_place}")
        return logits

    return process


class FixedCost(StepCost):
    """What a token costs, whatever the clock says."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def of_a_token(self, num_tokens: int) -> float:
        return self._share


def make_engine(name: str, config: EngineConfig, drafting: Drafting, cost: float, num_valid: int | None) -> Engine:
    """An engine of a world, whose drafts depend on no clock."""
    here = worlds.world(name)
    engine = Engine(here.network, config, num_valid_tokens=num_valid, draft_model=here.drafts.get(drafting))
    engine.speculation.cost = FixedCost(cost)
    return engine


def phase_of(request: Request, engine: Engine) -> str | None:
    """Where a request stands between two steps; None when it has ended."""
    if request.is_finished:
        return None
    if request in engine.scheduler.waiting:
        if request.num_preemptions:
            return "preempted"
        return "child" if request.waits_for_parent else "waiting"
    followers = [one for one in engine.scheduler.waiting if one.parent is request]
    if followers and request.num_computed_tokens < request.num_prompt_tokens:
        return "leading"
    return "decode" if request.is_decoding else "prefill"


def check_nothing_is_left(engine: Engine) -> None:
    """No request, no block, and nothing that was kept for one."""
    manager, drafter = engine.block_manager, engine.speculation.drafter
    manager.check_integrity()
    assert manager.num_free_blocks == manager.num_blocks, "blocks are in use that nobody uses"
    assert not engine.scheduler.running and not engine.scheduler.waiting
    assert not engine.sampler._seen, "the sampler remembers a request that ended"
    assert not engine.speculation._records, "speculation remembers a request that ended"
    if isinstance(drafter, PromptLookup):
        assert not drafter._indexes, "prompt lookup remembers a request that ended"
    if isinstance(drafter, DraftModel):
        assert not drafter._progress, "the draft model remembers a request that ended"


@dataclass
class _Played:
    """An arrival with its requests, and the ids that the steps gave out for each."""

    arrival: Arrival
    requests: list[Request]
    given_out: list[list[int]]


class Player:
    """Plays a case; `seen` counts what happened."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.engine = make_engine(case.world, case.config, case.drafting, case.cost, case.num_valid)
        self.engine.scheduler.chunk_beside_decodes = lambda budget: min(budget, case.most_beside)
        self.seen: Counter[str] = Counter()
        self._played: list[_Played] = []
        self._step = 0
        self._plan = self.engine.scheduler.schedule
        self.engine.scheduler.schedule = self._schedule

    def play(self) -> None:
        """AssertionError where anything is wrong."""
        arrivals = sorted(self.case.arrivals, key=lambda arrival: arrival.step)
        while self.engine.has_unfinished or arrivals:
            while arrivals and arrivals[0].step == self._step:
                self._arrive(arrivals.pop(0))
            self._abort()
            if self.engine.has_unfinished:
                self._advance()
            self._step += 1
            assert self._step < MAX_STEPS, "the engine makes no progress"
        for played in self._played:
            for index in range(len(played.requests)):
                self._check(played, index)
        check_nothing_is_left(self.engine)
        self._count_drafts()

    def _arrive(self, arrival: Arrival) -> None:
        params = replace(
            KINDS[arrival.kind],
            max_tokens=arrival.max_tokens,
            n=arrival.n,
            priority=arrival.priority,
            logprobs=arrival.logprobs,
            prompt_logprobs=arrival.prompt_logprobs,
        )
        stops = [] if arrival.stop_place is None else [self._answer(arrival, 0).token_ids[arrival.stop_place]]
        processors = () if arrival.fail_place is None else (_failing_processor(arrival),)
        options = RequestOptions(stops, cache_salt=arrival.salt, logits_processors=processors)
        requests = self.engine.add_requests(arrival.prompt, params, options)
        assert len(requests) == arrival.n
        self._played.append(_Played(arrival, requests, [[] for _ in requests]))
        self.seen["requests"] += arrival.n
        self.seen["children"] += arrival.n - 1

    def _abort(self) -> None:
        for played in self._played:
            arrival, request = played.arrival, played.requests[played.arrival.aborted]
            phase = phase_of(request, self.engine)
            is_due = arrival.step + arrival.abort_after == self._step if arrival.abort_after is not None else False
            if phase is not None and (is_due or phase == arrival.abort_in):
                self.engine.finish(request)
                self.engine.block_manager.check_integrity()
                self.seen[f"aborted: {phase}"] += 1

    def _schedule(self) -> Schedule:
        scheduler, config = self.engine.scheduler, self.case.config
        waiting, decoding = list(scheduler.waiting), [one for one in scheduler.running if one.is_decoding]
        schedule = self._plan()
        assert 1 <= schedule.num_tokens <= config.max_num_batched_tokens
        assert len(scheduler.running) <= config.max_num_seqs
        assert {item.request for item in schedule.scheduled} <= set(scheduler.running)
        admitted = [request for request in waiting if request in scheduler.running]
        passed = [one for one in waiting if one in scheduler.waiting and not one.waits_for_parent]
        self.seen["overtaken"] += sum(one.request_id < other.request_id for one in passed for other in admitted)
        assert all(other.order < one.order for one in passed for other in admitted), "somebody was overtaken"
        self.seen["chunks"] += sum(not item.needs_token for item in schedule.scheduled)
        phases = {item.request.is_decoding for item in schedule.scheduled}
        in_chunks = sum(item.num_scheduled_tokens for item in schedule.scheduled if item.request not in decoding)
        assert not decoding or in_chunks <= self.case.most_beside, "who decodes waits for too much"
        self.seen["steps that prefill and decode"] += len(phases) == 2
        return schedule

    def _advance(self) -> None:
        given_out = {
            request.request_id: ids
            for played in self._played
            for request, ids in zip(played.requests, played.given_out, strict=True)
        }
        for output in self.engine.step():
            given_out[output.request.request_id] += output.token_ids
            assert given_out[output.request.request_id] == output.request.completion_ids
            assert output.finish_reason == output.request.finish_reason
        self.engine.block_manager.check_integrity()
        self.seen["steps"] += 1

    def _answer(self, arrival: Arrival, child: int) -> Answer:
        is_drawn = KINDS[arrival.kind].seed is not None
        case = self.case
        return worlds.answer(case.world, arrival.prompt, arrival.kind, child if is_drawn else 0, case.num_valid)

    def _check(self, played: _Played, index: int) -> None:
        arrival, request = played.arrival, played.requests[index]
        answer = self._answer(arrival, index)
        limit = min(arrival.max_tokens, self.case.config.max_model_len - len(arrival.prompt))
        expected, reason = list(answer.token_ids[:limit]), "length"
        if arrival.stop_place is not None:
            stop = self._answer(arrival, 0).token_ids[arrival.stop_place]
            if stop in expected:
                expected, reason = expected[: expected.index(stop) + 1], "stop"
        if arrival.fail_place is not None and arrival.fail_place < len(expected):
            expected, reason = expected[: arrival.fail_place], "error"
        found = request.completion_ids
        num_compared = min(len(found), answer.num_certain)
        assert found[:num_compared] == expected[:num_compared], self._describe(played, index, expected)
        if request.finish_reason != "abort" and answer.num_certain >= len(expected):
            assert request.finish_reason == reason, self._describe(played, index, expected)
            # What was drafted right in the step that failed is lost with it.
            assert found == expected or reason == "error", self._describe(played, index, expected)
        if request.error is not None:
            assert isinstance(request.error, ProcessorError) and request.finish_reason == "error", request.error
            self.seen["failed"] += 1
        self.seen["tokens"] += len(found)
        self.seen["compared"] += num_compared
        self.seen["preemptions"] += request.num_preemptions
        self.seen["stops"] += request.finish_reason == "stop"
        self._check_cached(played, index)
        self._check_logprobs(played, index, num_compared, answer)

    def _check_cached(self, played: _Played, index: int) -> None:
        arrival, num_cached = played.arrival, played.requests[index].num_cached_tokens
        assert num_cached % 16 == 0 and num_cached < len(arrival.prompt)
        if index == 0 and (arrival.prompt_logprobs is not None or not self.case.config.enable_prefix_caching):
            assert num_cached == 0
        others = [other.arrival.salt for other in self._played if other is not played]
        if index == 0 and arrival.salt not in others:
            assert num_cached == 0, "found the blocks of another salt"
        if num_cached:
            self.seen["children that find the prompt" if index else "prefix hits"] += 1

    def _check_logprobs(self, played: _Played, index: int, num_compared: int, answer: Answer) -> None:
        arrival, request = played.arrival, played.requests[index]
        tolerance = worlds.world(self.case.world).margin / 2
        if arrival.logprobs is None:
            assert request.logprobs == []
        else:
            assert [one.token_id for one in request.logprobs] == request.completion_ids
            assert all(len(one.top) == arrival.logprobs for one in request.logprobs)
            tolerance = 0.0 if worlds.world(self.case.world).is_native else tolerance
            for one, logprob in zip(request.logprobs[:num_compared], answer.logprobs, strict=False):
                assert abs(one.logprob - logprob) <= tolerance, (one.logprob, logprob)
            self.seen["logprobs"] += num_compared
        if arrival.prompt_logprobs is not None and request.finish_reason in ("stop", "length"):
            self._check_prompt_logprobs(arrival, request)

    def _check_prompt_logprobs(self, arrival: Arrival, request: Request) -> None:
        expected = worlds.prompt_logprobs(self.case.world, arrival.prompt, self.case.num_valid)
        found = request.prompt_logprobs
        assert found[0] is None and len(found) == len(arrival.prompt)
        for one, logprob in zip(found[1:], expected, strict=True):
            assert one is not None
            is_near = abs(one.logprob - logprob) <= worlds.world(self.case.world).margin / 2
            assert one.logprob == logprob or is_near, (one.logprob, logprob)
        self.seen["prompt logprobs"] += len(expected)

    def _count_drafts(self) -> None:
        speculation, drafting = self.engine.speculation, self.case.drafting
        if drafting == "off":
            assert speculation.num_drafted == 0
            return
        assert 0 <= speculation.num_accepted <= speculation.num_drafted
        self.seen[f"accepted drafts: {drafting}"] += speculation.num_accepted
        self.seen[f"rejected drafts: {drafting}"] += speculation.num_drafted - speculation.num_accepted

    def _describe(self, played: _Played, index: int, expected: list[int]) -> str:
        request = played.requests[index]
        return (
            f"child {index} of {played.arrival}\nfound    {request.completion_ids}\nexpected {expected}\n"
            f"{request.num_cached_tokens} tokens cached, {request.num_preemptions} times preempted"
        )


def play(number: int, world: str | None = None) -> Counter[str]:
    """Plays a case and says what happened; an exception carries the case's number and all that it was made of."""
    case = make_case(number, world)
    player = Player(case)
    try:
        player.play()
    except Exception as error:
        arrivals = "\n".join(map(str, case.arrivals))
        error.add_note(f"case {number}: {replace(case, arrivals=())}\n{arrivals}")
        raise
    return player.seen
