"""The scheduler on integers alone: budgets, order, preemption, and that every request ends."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.engine.block_manager import BlockManager
from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.scheduler import Schedule, Scheduler

BLOCK_SIZE = 4


def scheduler(num_blocks: int = 100, max_num_batched_tokens: int = 100, max_num_seqs: int = 100) -> Scheduler:
    manager = BlockManager(num_blocks, BLOCK_SIZE)
    return Scheduler(manager, max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs)


def request(request_id: int, num_prompt_tokens: int, max_tokens: int = 3) -> Request:
    return Request(request_id, [1] * num_prompt_tokens, SamplingParams(max_tokens=max_tokens))


def commit(schedule: Schedule, queue: Scheduler) -> None:
    """What the engine does after a step, with 7 for every sampled token."""
    for item in schedule.scheduled:
        samples = item.needs_token
        item.request.table.num_computed_tokens += item.num_scheduled_tokens
        if samples:
            item.request.append(7)
        if item.request.is_finished:
            queue.finish(item.request)


def sizes(schedule: Schedule) -> dict[int, int]:
    return {item.request.request_id: item.num_scheduled_tokens for item in schedule.scheduled}


def test_prompts_are_computed_whole_and_then_a_token_a_step() -> None:
    queue = scheduler()
    for number, length in enumerate((5, 2)):
        queue.add(request(number, length))
    steps = []
    while queue.has_unfinished:
        steps.append(queue.schedule())
        assert all(item.needs_token for item in steps[-1].scheduled)
        commit(steps[-1], queue)
    assert [sizes(step) for step in steps] == [{0: 5, 1: 2}, {0: 1, 1: 1}, {0: 1, 1: 1}]


def test_a_long_prompt_is_cut_into_chunks_and_only_the_last_asks_for_logits() -> None:
    queue = scheduler(max_num_batched_tokens=4)
    queue.add(request(0, 10))
    seen = []
    while queue.has_unfinished:
        step = queue.schedule()
        seen.append((step.num_tokens, step.scheduled[0].needs_token))
        commit(step, queue)
    assert seen == [(4, False), (4, False), (2, True), (1, True), (1, True)]


def test_running_requests_come_before_waiting_ones() -> None:
    queue = scheduler(max_num_batched_tokens=4)
    queue.add(request(0, 3))
    commit(queue.schedule(), queue)
    queue.add(request(1, 9))
    assert sizes(queue.schedule()) == {0: 1, 1: 3}


def test_no_more_requests_run_than_allowed() -> None:
    queue = scheduler(max_num_seqs=2)
    for number in range(3):
        queue.add(request(number, 2, max_tokens=number + 1))
    first = queue.schedule()
    assert sizes(first) == {0: 2, 1: 2}
    commit(first, queue)  # request 0 ends here
    assert sizes(queue.schedule()) == {1: 1, 2: 2}


def test_the_first_that_does_not_fit_holds_back_those_behind_it() -> None:
    queue = scheduler(num_blocks=3)
    for number, length in enumerate((4, 12, 1)):
        queue.add(request(number, length))
    assert sizes(queue.schedule()) == {0: 4}


def test_when_the_cache_is_full_the_youngest_gives_way_and_is_computed_again() -> None:
    queue = scheduler(num_blocks=2)
    old, young = request(0, 4), request(1, 4)
    queue.add(old)
    queue.add(young)
    commit(queue.schedule(), queue)  # both blocks are full now
    step = queue.schedule()
    assert sizes(step) == {0: 1}
    assert young.block_table == [] and young.num_computed_tokens == 0 and young.completion_ids == [7]
    commit(step, queue)
    while not old.is_finished:
        commit(queue.schedule(), queue)
    assert sizes(queue.schedule()) == {1: 5}  # prompt and completion so far, at once


def test_a_step_that_preempts_admits_nobody() -> None:
    queue = scheduler(num_blocks=3)
    queue.add(request(0, 4))
    queue.add(request(1, 8))
    commit(queue.schedule(), queue)  # all three blocks are full now
    queue.max_num_batched_tokens = 5  # the one that gives way could come back at once with a chunk of 4
    assert sizes(queue.schedule()) == {0: 1}
    assert [waiting.request_id for waiting in queue.waiting] == [1]


def test_a_preempted_request_waits_at_the_front() -> None:
    queue = scheduler(num_blocks=2)
    for number in range(2):
        queue.add(request(number, 4))
    commit(queue.schedule(), queue)
    queue.add(request(2, 1))
    queue.schedule()
    assert [waiting.request_id for waiting in queue.waiting] == [1, 2]


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_an_aborted_request_is_forgotten_wherever_it_stands(num_steps: int) -> None:
    queue = scheduler(num_blocks=2)
    requests = [request(number, 4, max_tokens=4) for number in range(2)]
    for one in requests:
        queue.add(one)
    for _ in range(num_steps):
        commit(queue.schedule(), queue)
    for one in requests:
        queue.finish(one)
    assert not queue.has_unfinished
    assert queue.block_manager.num_free_blocks == 2
    queue.block_manager.check_integrity()


@dataclass
class Load:
    lengths: list[tuple[int, int]]  # prompt and completion tokens of each request
    budget: int
    max_num_seqs: int
    extra_blocks: int


loads = st.builds(
    Load,
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 10)), min_size=1, max_size=8),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(0, 12),
)


@given(loads)
def test_every_request_ends_within_all_limits(load: Load) -> None:
    longest = max(prompt + completion for prompt, completion in load.lengths)
    queue = scheduler(-(-longest // BLOCK_SIZE) + load.extra_blocks, load.budget, load.max_num_seqs)
    requests = [request(i, prompt, max_tokens) for i, (prompt, max_tokens) in enumerate(load.lengths)]
    for one in requests:
        queue.add(one)
    for _ in range(5000):
        if not queue.has_unfinished:
            break
        step = queue.schedule()
        assert 1 <= step.num_tokens <= load.budget
        assert len(step.scheduled) <= len(queue.running) <= load.max_num_seqs
        order = [item.request.request_id for item in step.scheduled]
        assert order == sorted(order), "an older request stands behind a younger one"
        for item in step.scheduled:
            end = item.request.num_computed_tokens + item.num_scheduled_tokens
            assert item.num_scheduled_tokens > 0
            assert end <= item.request.num_tokens
            assert end <= len(item.request.block_table) * BLOCK_SIZE
        commit(step, queue)
        queue.block_manager.check_integrity()
    assert [len(one.completion_ids) for one in requests] == [completion for _, completion in load.lengths]
    assert queue.block_manager.num_free_blocks == queue.block_manager.num_blocks


def test_a_smaller_priority_is_served_first_and_nobody_running_is_stopped_for_it() -> None:
    queue = scheduler(max_num_seqs=1)
    usual, urgent = request(0, 2), Request(1, [1, 1], SamplingParams(max_tokens=3, priority=-1))
    queue.add(usual)
    commit(queue.schedule(), queue)
    queue.add(request(2, 2))
    queue.add(urgent)
    assert sizes(queue.schedule()) == {0: 1}
    assert [one.request_id for one in queue.waiting] == [1, 2]


def test_requests_that_decode_come_before_an_earlier_prompt() -> None:
    queue = scheduler(max_num_batched_tokens=8)
    long, short = request(0, 30), request(1, 2)
    queue.add(long)
    commit(queue.schedule(), queue)
    queue.max_num_batched_tokens = 10
    queue.add(short)
    step = queue.schedule()
    assert sizes(step) == {0: 10}
    commit(step, queue)
    queue.max_num_batched_tokens = 20
    commit(queue.schedule(), queue)  # the long prompt's end, and the short one
    queue.max_num_batched_tokens = 5
    queue.add(request(2, 9))
    assert sizes(queue.schedule()) == {0: 1, 1: 1, 2: 3}


def test_a_chunk_beside_requests_that_decode_is_no_longer_than_they_may_wait_for() -> None:
    asked = []

    def chunk(budget: int) -> int:
        asked.append(budget)
        return min(budget, 6)

    queue = Scheduler(
        BlockManager(100, BLOCK_SIZE), max_num_batched_tokens=20, max_num_seqs=9, chunk_beside_decodes=chunk
    )
    queue.add(request(0, 25, max_tokens=99))
    for size in (20, 5):
        step = queue.schedule()
        assert sizes(step) == {0: size} and not asked, "nobody waits"
        commit(step, queue)
    queue.add(request(1, 9))
    queue.add(request(2, 9))
    for expected in ({0: 1, 1: 6}, {0: 1, 1: 3, 2: 3}, {0: 1, 1: 1, 2: 6}):
        step = queue.schedule()
        assert sizes(step) == expected
        commit(step, queue)
    assert asked == [19, 19, 18]


def test_the_one_that_gives_way_leaves_the_step_that_it_was_in() -> None:
    queue = scheduler(num_blocks=3, max_num_batched_tokens=5)
    prompt, decoding = request(0, 12), request(1, 1, max_tokens=9)
    queue.add(decoding)
    commit(queue.schedule(), queue)
    queue.add(prompt)
    steps = []
    for _ in range(3):
        steps.append(queue.schedule())
        commit(steps[-1], queue)
    # In the third step the decoding request was scheduled first; then the earlier one needed its block.
    assert [sizes(step) for step in steps] == [{0: 4, 1: 1}, {0: 4, 1: 1}, {0: 4}]
    assert decoding.num_preemptions == 1 and decoding.block_table == []


def test_drafts_take_room_in_the_step_and_in_the_cache_but_nobodys_place() -> None:
    manager = BlockManager(3, BLOCK_SIZE)
    queue = Scheduler(manager, max_num_batched_tokens=6, max_num_seqs=9, num_drafts_wanted=lambda _request: 8)
    one = request(0, 3, max_tokens=20)
    queue.add(one)
    commit(queue.schedule(), queue)
    (item,) = queue.schedule().scheduled
    assert (item.num_scheduled_tokens, item.num_draft_tokens) == (1, 5)  # of 8: the step has room for 6
    assert len(one.block_table) == manager.num_blocks_for(4 + 5)
    one.params = SamplingParams(max_tokens=4)
    (item,) = queue.schedule().scheduled
    assert item.num_draft_tokens == 2  # one token of four is there, and one comes without a draft
    one.params = SamplingParams(max_tokens=20)
    one.completion_ids += [7] * 7
    one.table.num_computed_tokens = one.num_tokens - 1
    (item,) = queue.schedule().scheduled
    assert item.num_draft_tokens == 0, "the cache has room for 12 tokens, and 11 + 5 would not fit"


def test_children_wait_for_the_prompt_and_find_its_blocks() -> None:
    queue = scheduler(max_num_batched_tokens=8)
    parent, child, other = request(0, 10), request(1, 10), request(2, 2)
    child.parent = parent
    for one in (parent, child, other):
        queue.add(one)
    step = queue.schedule()
    assert sizes(step) == {0: 8}
    for item in step.scheduled:
        item.request.table.num_computed_tokens += item.num_scheduled_tokens
        queue.block_manager.publish(item.request.table, item.request.token_ids)
    step = queue.schedule()
    assert sizes(step) == {0: 2, 2: 2}, "others do not wait for them"
    commit(step, queue)
    step = queue.schedule()
    assert sizes(step) == {0: 1, 1: 2, 2: 1}
    assert child.num_cached_tokens == 8 and child.block_table[:2] == parent.block_table[:2]


def test_prompt_logprobs_need_every_token_computed() -> None:
    queue = scheduler()
    first = request(0, 9)
    queue.add(first)
    commit(queue.schedule(), queue)
    queue.block_manager.publish(first.table, first.token_ids)
    asked = Request(1, [1] * 9, SamplingParams(prompt_logprobs=0))
    queue.add(asked)
    step = queue.schedule()
    assert sizes(step) == {0: 1, 1: 9}
    assert list(step.scheduled[1].predicted_prompt) == list(range(8))
