"""The block manager keeps every block exactly once, whatever is asked of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.engine.block_manager import BlockManager
from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams


def request(request_id: int = 0) -> Request:
    return Request(request_id, prompt_ids=[1], params=SamplingParams())


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_block_holds_block_size_tokens(num_tokens: int, num_blocks: int) -> None:
    manager, one = BlockManager(3, block_size=4), request()
    assert manager.num_blocks_for(num_tokens) == num_blocks
    assert manager.grow(one, num_tokens)
    assert len(one.block_table) == num_blocks
    assert manager.num_free_blocks == 3 - num_blocks


def test_growing_keeps_the_blocks_that_a_request_has() -> None:
    manager, one = BlockManager(4, block_size=4), request()
    manager.grow(one, 5)
    before = list(one.block_table)
    manager.grow(one, 16)
    assert one.block_table[:2] == before
    assert sorted(one.block_table) == [0, 1, 2, 3]


def test_a_request_that_does_not_fit_changes_nothing() -> None:
    manager, one, other = BlockManager(3, block_size=4), request(1), request(2)
    manager.grow(one, 8)
    assert not manager.grow(other, 5)
    assert other.block_table == [] and manager.num_free_blocks == 1
    assert not manager.grow(one, 17)
    assert len(one.block_table) == 2
    manager.check_integrity()


def test_released_blocks_can_be_had_again_and_only_once() -> None:
    manager, one, other = BlockManager(2, block_size=4), request(1), request(2)
    manager.grow(one, 8)
    manager.release(one)
    manager.release(one)
    assert one.block_table == [] and manager.num_free_blocks == 2
    assert manager.grow(other, 8)
    manager.check_integrity()


def lose(manager: BlockManager, one: Request) -> None:
    manager._free.popitem()


def free_what_is_used(manager: BlockManager, one: Request) -> None:
    manager._free[one.block_table[0]] = None


def use_twice(manager: BlockManager, one: Request) -> None:
    one.block_table[0] = one.block_table[1]


def name_nothing(manager: BlockManager, one: Request) -> None:
    manager._block_of[b"a hash"] = 3


def compute_beyond(manager: BlockManager, one: Request) -> None:
    one.num_computed_tokens = 9


@pytest.mark.parametrize("break_it", [lose, free_what_is_used, use_twice, name_nothing, compute_beyond])
def test_the_integrity_check_sees_what_is_wrong(break_it) -> None:
    manager, one = BlockManager(4, block_size=4), request()
    manager.grow(one, 8)
    manager.check_integrity()
    break_it(manager, one)
    with pytest.raises(AssertionError):
        manager.check_integrity()


def computed(request_id: int, ids: list[int], manager: BlockManager, **settings) -> Request:
    """A request whose ids are in the cache and known."""
    one = Request(request_id, ids, SamplingParams(), **settings)
    assert manager.grow(one, len(ids))
    one.num_computed_tokens = len(ids)
    manager.publish(one)
    return one


def test_a_request_shares_the_full_blocks_of_one_with_the_same_beginning() -> None:
    manager = BlockManager(10, block_size=4)
    first = computed(0, list(range(11)), manager)
    second = Request(1, [*range(8), 99, 98, 97, 96, 95], SamplingParams())
    assert manager.adopt_prefix(second) == 8
    assert second.block_table == first.block_table[:2]
    assert manager.num_free_blocks == 7
    manager.release(first)
    assert manager.num_free_blocks == 8, "the second still uses two of the three"
    manager.check_integrity()


@pytest.mark.parametrize(("length", "num_found"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8)])
def test_at_least_one_token_is_left_to_compute(length: int, num_found: int) -> None:
    manager = BlockManager(10, block_size=4)
    computed(0, list(range(12)), manager)
    assert manager.adopt_prefix(Request(1, list(range(length)), SamplingParams())) == num_found


@pytest.mark.parametrize("settings", [{"salt": b"other"}, {"alpha_slot": 1}, {"first_position": 3}])
def test_nothing_is_shared_where_keys_or_users_differ(settings) -> None:
    manager, ids = BlockManager(10, block_size=4), list(range(9))
    computed(0, ids, manager)
    assert manager.adopt_prefix(Request(1, ids, SamplingParams())) == 8
    assert manager.adopt_prefix(Request(2, ids, SamplingParams(), **settings)) == 0


def test_a_block_is_known_by_all_ids_before_it_too() -> None:
    manager = BlockManager(10, block_size=4)
    computed(0, [1, 2, 3, 4, 5, 6, 7, 8, 9], manager)
    assert manager.adopt_prefix(Request(1, [0, 2, 3, 4, 5, 6, 7, 8, 9], SamplingParams())) == 0


def test_only_computed_blocks_are_known_and_those_of_the_completion_too() -> None:
    manager = BlockManager(10, block_size=4)
    one = Request(0, list(range(6)), SamplingParams(), completion_ids=[6, 7, 8])
    manager.grow(one, 9)
    one.num_computed_tokens = 7
    manager.publish(one)
    later = Request(1, list(range(12)), SamplingParams())
    assert manager.adopt_prefix(later) == 4
    manager.release(later)
    one.num_computed_tokens = 8
    manager.publish(one)
    assert manager.adopt_prefix(later) == 8


def test_the_first_block_with_some_content_is_the_one_that_is_found() -> None:
    manager, ids = BlockManager(10, block_size=4), list(range(5))
    first = computed(0, ids, manager)
    computed(1, ids, manager)  # computed at the same time, without finding each other
    third = Request(2, ids, SamplingParams())
    manager.adopt_prefix(third)
    assert third.block_table == first.block_table[:1]
    manager.check_integrity()


def test_a_request_that_was_preempted_finds_its_blocks_until_others_take_them() -> None:
    manager, ids = BlockManager(4, block_size=4), list(range(13))
    one = computed(0, ids, manager)
    manager.release(one)
    one.num_computed_tokens = 0
    assert manager.num_free_blocks == 4
    other = request(1)
    manager.grow(other, 8)  # takes the block without content, then the end of the prompt
    assert manager.adopt_prefix(one) == 8
    manager.check_integrity()


def test_what_was_used_longest_ago_is_taken_first() -> None:
    manager = BlockManager(5, block_size=4)
    old, new = computed(0, [1] * 9, manager), computed(1, [2] * 6, manager)
    manager.release(old)
    manager.release(new)
    assert manager.grow(request(2), 12)  # two without content, and the end of what is oldest
    assert manager.adopt_prefix(Request(3, [2] * 6, SamplingParams())) == 4
    assert manager.adopt_prefix(Request(4, [1] * 9, SamplingParams())) == 4
    manager.check_integrity()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=40), st.integers(1, 12), st.integers(1, 5))
def test_any_order_of_growing_and_releasing_keeps_every_block_once(actions, num_blocks, block_size) -> None:
    manager, requests = BlockManager(num_blocks, block_size), [request(i) for i in range(5)]
    for who, num_tokens in actions:
        if num_tokens == 0:
            manager.release(requests[who])
        elif manager.grow(requests[who], num_tokens):
            assert len(requests[who].block_table) >= manager.num_blocks_for(num_tokens)
        manager.check_integrity()
    for one in requests:
        manager.release(one)
    assert manager.num_free_blocks == num_blocks
