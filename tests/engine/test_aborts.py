"""Ten thousand requests aborted at random moments: nothing of them is left, and those beside them answer as ever."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from qwartet.engine.engine import Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import Request
from tests.engine import worlds
from tests.engine.schedules import PHASES, Drafting, check_nothing_is_left, make_engine, phase_of
from tests.engine.worlds import CONTEXT, KINDS, NUM_TOKENS, Prompt, num_blocks_of

NUM_ABORTS = 2500  # of each engine
NUM_LIVE = 20
LEAST = 30  # of each phase and engine

ENGINES: dict[str, tuple[str, Drafting, bool]] = {
    "plain": ("native", "off", False),
    "prefixes and prompt lookup": ("native-int8", "prompt-lookup", True),
    "prefixes and a draft model": ("native", "other", True),
    "prefixes and a perfect draft model": ("native-int4", "same", True),
}


class Crowd:
    """Requests that come and go on one engine."""

    def __init__(self, name: str, drafting: Drafting, enable_prefix_caching: bool) -> None:
        self.name = name
        config = EngineConfig(
            max_num_seqs=6,
            max_num_batched_tokens=24,
            num_blocks=num_blocks_of(CONTEXT) + 2,
            kv_cache_dtype=worlds.world(name).kv_cache_dtype,
            enable_prefix_caching=enable_prefix_caching,
            speculation="off" if drafting == "off" else "prompt-lookup",
        )
        self.engine: Engine = make_engine(name, config, drafting, 0.05, None)
        self.rng = random.Random(f"aborts {name} {drafting}")
        self.live: list[tuple[Request, Prompt, str]] = []
        self.num_checked = 0

    def fill(self) -> None:
        rng = self.rng
        while len(self.live) < NUM_LIVE:
            prompt, kind = rng.choice(worlds.prompts(self.name)), rng.choice(("greedy", "few"))
            params = replace(
                KINDS[kind], max_tokens=rng.randint(1, NUM_TOKENS), n=rng.choice((1, 1, 3)), priority=rng.randint(0, 1)
            )
            self.live += [(request, prompt, kind) for request in self.engine.add_requests(prompt, params)]

    def step(self) -> None:
        if self.engine.has_unfinished:
            self.engine.step()
            self.engine.block_manager.check_integrity()
        for request, prompt, kind in self.live:
            if request.is_finished:
                assert request.finish_reason == "length"
                self.check(request, prompt, kind)
        self.live = [one for one in self.live if not one[0].is_finished]

    def abort(self, place: int) -> str:
        """Aborts one of the live requests; returns the phase that it was in."""
        request, prompt, kind = self.live.pop(place)
        phase = phase_of(request, self.engine)
        self.engine.finish(request)
        self.engine.finish(request)  # once more does no harm
        self.engine.block_manager.check_integrity()
        assert request.finish_reason == "abort" and request.block_table == []
        self.check(request, prompt, kind)
        assert phase is not None
        return phase

    def check(self, request: Request, prompt: Prompt, kind: str) -> None:
        answer = worlds.answer(self.name, prompt, kind)
        num_compared = min(len(request.completion_ids), answer.num_certain)
        assert request.completion_ids[:num_compared] == list(answer.token_ids[:num_compared])
        self.num_checked += num_compared

    def rarest(self, aborted: Counter[str]) -> int | None:
        """Where a request stands that is in the phase that was aborted least."""
        phases = {phase_of(request, self.engine): place for place, (request, _, _) in enumerate(self.live)}
        rare = min((phase for phase in phases if phase is not None), key=aborted.__getitem__, default=None)
        return None if rare is None else phases[rare]


@pytest.mark.parametrize("what", ENGINES)
def test_after_thousands_of_aborts_no_block_is_in_use(what: str) -> None:
    name, drafting, enable_prefix_caching = ENGINES[what]
    crowd, aborted = Crowd(worlds.available(name), drafting, enable_prefix_caching), Counter[str]()
    while aborted.total() < NUM_ABORTS:
        crowd.fill()
        for _ in range(crowd.rng.choice((1, 1, 2, 8))):
            crowd.step()
        for _ in range(crowd.rng.randint(1, 10)):
            place = crowd.rarest(aborted) if crowd.rng.random() < 0.5 else None
            if crowd.live:
                aborted[crowd.abort(crowd.rng.randrange(len(crowd.live)) if place is None else place)] += 1
        if crowd.rng.random() < 0.02:  # everybody leaves at once
            while crowd.live:
                aborted[crowd.abort(crowd.rng.randrange(len(crowd.live)))] += 1
            check_nothing_is_left(crowd.engine)
    while crowd.live:
        crowd.abort(0)
    check_nothing_is_left(crowd.engine)
    assert crowd.engine.block_manager.num_free_blocks == crowd.engine.block_manager.num_blocks
    assert not {phase: aborted[phase] for phase in PHASES if aborted[phase] < LEAST}
    assert crowd.num_checked > 1000, "too little was computed"


def test_the_engines_together_abort_ten_thousand() -> None:
    assert len(ENGINES) * NUM_ABORTS == 10_000
