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


@pytest.mark.parametrize("break_it", [lambda m: m._free.popleft(), lambda m: m._free.append(0)])
def test_the_integrity_check_sees_a_lost_and_a_shared_block(break_it) -> None:
    manager = BlockManager(3, block_size=4)
    break_it(manager)
    with pytest.raises(AssertionError, match="lost or shared"):
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
