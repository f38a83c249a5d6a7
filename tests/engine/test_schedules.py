"""The engine against the oracle: whatever arrives, is aborted or preempted, and however little room there is, the text
of every request is the same. And: an engine that is a little wrong would be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
import torch

from qwartet.engine import engine, sampler
from qwartet.engine.block_manager import BlockManager, BlockTable, TokenIds
from qwartet.engine.request import Request
from qwartet.engine.sampler import Sampler
from qwartet.engine.scheduler import Scheduler
from tests.engine import worlds
from tests.engine.schedules import PHASES, make_case, play
from tests.reference.naive_model import naive_logits

NUM_CASES = 300
NUM_SLOW_CASES = 2000


def play_all(numbers: Iterable[int]) -> Counter[str]:
    seen: Counter[str] = Counter()
    for number in numbers:
        seen.update(play(number))
    return seen


def check_everything_occurred(seen: Counter[str]) -> None:
    """A test of schedules without a preemption, say, tests less than it says."""
    least = {
        "preemptions": 50,
        "prefix hits": 100,
        "children that find the prompt": 100,
        "chunks": 1000,
        "steps that prefill and decode": 300,
        "overtaken": 50,
        "stops": 100,
        "failed": 20,
        "logprobs": 500,
        "prompt logprobs": 500,
        **{
            f"{what} drafts: {how}": 50
            for what in ("accepted", "rejected")
            for how in ("prompt-lookup", *worlds.DRAFTS)
        },
        **{f"aborted: {phase}": 1 for phase in PHASES},
    }
    assert not {name: seen[name] for name, number in least.items() if seen[name] < number}
    assert seen["compared"] > 0.8 * seen["tokens"], "near ties leave too little to compare"


def test_any_schedule_gives_the_oracles_text() -> None:
    check_everything_occurred(play_all(range(NUM_CASES)))


@pytest.mark.slow
def test_more_schedules_give_the_oracles_text() -> None:
    check_everything_occurred(play_all(range(NUM_CASES, NUM_CASES + NUM_SLOW_CASES)))


@pytest.mark.parametrize("name", worlds.NAMES)
def test_every_world_gives_its_text(name: str) -> None:
    seen: Counter[str] = Counter()
    for number in range(10_000, 10_008):
        seen.update(play(number, name))
    assert seen["compared"] > 50


def test_in_fp32_next_to_nothing_is_left_out_of_the_comparison() -> None:
    answers = [worlds.answer("fp32", prompt, kind) for prompt in worlds.prompts("fp32") for kind in ("greedy", "few")]
    assert sum(one.num_certain for one in answers) > 0.98 * sum(len(one.token_ids) for one in answers)


@pytest.mark.parametrize("name", [name for name in worlds.NAMES if name.startswith("native")])
def test_the_answers_of_native_kernels_are_the_oracles_up_to_the_margin_rule(name: str) -> None:
    here, num_compared = worlds.world(name), 0
    for prompt in worlds.prompts(name):
        found = torch.tensor(worlds.answer(name, prompt, "greedy").token_ids)
        ids = [*prompt, *found.tolist()[:-1]]
        logits = naive_logits(here.config, here.weights, ids, prompt_length=len(prompt), stored=here.stored)
        best = logits[len(prompt) - 1 :].topk(2)
        is_clear = best.values[:, 0] - best.values[:, 1] >= here.margin
        assert torch.equal(found[is_clear], best.indices[is_clear, 0]), prompt
        num_compared += int(is_clear.sum())
    assert num_compared > 20, "near ties leave too little to compare"


def test_a_case_is_a_function_of_its_number() -> None:
    assert make_case(5) == make_case(5) != make_case(6)
    assert play(5) == play(5)


def accept_all_drafts(result: sampler.Sampled, rows: Sequence[sampler.Row]) -> None:
    if isinstance(rows[-1].token, Exception):
        raise rows[-1].token
    result.token_ids += [*result.request.draft_ids, rows[-1].token]


def lose_a_block(manager: BlockManager, table: BlockTable, release=BlockManager.release) -> None:
    lost = len(table.blocks) > 2 and table.blocks.pop()
    release(manager, table)
    if lost:
        manager._free.pop(lost, None)


def keep_computed(scheduler: Scheduler, request: Request, preempt=Scheduler._preempt) -> None:
    num_computed = request.num_computed_tokens
    preempt(scheduler, request)
    request.table.num_computed_tokens = num_computed // 2


def publish_too_much(
    manager: BlockManager, table: BlockTable, token_ids: TokenIds, publish=BlockManager.publish
) -> None:
    """A block counts as computed as soon as its first token is."""
    num_computed = table.num_computed_tokens
    whole = -(-num_computed // manager.block_size) * manager.block_size
    table.num_computed_tokens = whole if len(token_ids(0, whole)) == whole else num_computed
    publish(manager, table, token_ids)
    table.num_computed_tokens = num_computed


WRONG = {
    "prefixes of any alpha and salt are shared": (engine, "prefix_root", lambda *settings: b""),
    "alpha follows the text": (Request, "num_prompt_tokens", property(lambda request: request.num_tokens)),
    "every draft is taken": (sampler, "_walk", accept_all_drafts),
    "a block is lost": (BlockManager, "release", lose_a_block),
    "blocks are published before they are full": (BlockManager, "publish", publish_too_much),
    "what ended is remembered": (Sampler, "release", lambda self, request: None),
    "the last comes first": (
        Request,
        "order",
        property(lambda request: (request.params.priority, -request.request_id)),
    ),
    "penalties forget what was said": (sampler.SeenIds, "add", lambda self, token_id: None),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_engine_that_is_a_little_wrong_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    play(0)  # is right before
    monkeypatch.setattr(*WRONG[what])
    with pytest.raises((AssertionError, RuntimeError, IndexError, KeyError)):
        play_all(range(60))
