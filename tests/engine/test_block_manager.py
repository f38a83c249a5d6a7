"""The block manager keeps every block exactly once, whatever is asked of it."""

from __future__ import annotations

from array import array
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qwartet.engine.block_manager import BlockManager, BlockTable, TokenIds, prefix_root


def reader(ids: list[int]) -> TokenIds:
    return lambda start, end: ids[start:end]


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_block_holds_block_size_tokens(num_tokens: int, num_blocks: int) -> None:
    manager, one = BlockManager(3, block_size=4), BlockTable()
    assert manager.num_blocks_for(num_tokens) == num_blocks
    assert manager.grow(one, num_tokens) == []
    assert len(one.blocks) == num_blocks
    assert manager.num_free_blocks == 3 - num_blocks


def test_growing_keeps_the_blocks_that_a_request_has() -> None:
    manager, one = BlockManager(4, block_size=4), BlockTable()
    manager.grow(one, 5)
    before = list(one.blocks)
    manager.grow(one, 16)
    assert one.blocks[:2] == before
    assert sorted(one.blocks) == [0, 1, 2, 3]


def test_a_request_that_does_not_fit_changes_nothing() -> None:
    manager, one, other = BlockManager(3, block_size=4), BlockTable(), BlockTable()
    manager.grow(one, 8)
    assert manager.grow(other, 5) is None
    assert other.blocks == [] and manager.num_free_blocks == 1
    assert manager.grow(one, 17) is None
    assert len(one.blocks) == 2
    manager.check_integrity()


def test_released_blocks_can_be_had_again_and_only_once() -> None:
    manager, one, other = BlockManager(2, block_size=4), BlockTable(), BlockTable()
    manager.grow(one, 8)
    manager.release(one)
    manager.release(one)
    assert one.blocks == [] and manager.num_free_blocks == 2
    assert manager.grow(other, 8) == []
    manager.check_integrity()


def lose(manager: BlockManager, one: BlockTable) -> None:
    manager._free.popitem()


def free_what_is_used(manager: BlockManager, one: BlockTable) -> None:
    manager._free[one.blocks[0]] = None


def use_twice(manager: BlockManager, one: BlockTable) -> None:
    one.blocks[0] = one.blocks[1]


def name_nothing(manager: BlockManager, one: BlockTable) -> None:
    manager._block_of[b"a hash"] = 3


def compute_beyond(manager: BlockManager, one: BlockTable) -> None:
    one.num_computed_tokens = 9


@pytest.mark.parametrize("break_it", [lose, free_what_is_used, use_twice, name_nothing, compute_beyond])
def test_the_integrity_check_sees_what_is_wrong(break_it) -> None:
    manager, one = BlockManager(4, block_size=4), BlockTable()
    manager.grow(one, 8)
    manager.check_integrity()
    break_it(manager, one)
    with pytest.raises(AssertionError):
        manager.check_integrity()


def computed(ids: list[int], manager: BlockManager, root: bytes = b"") -> BlockTable:
    """A table whose tokens are in the cache and known."""
    one = BlockTable(root)
    assert manager.grow(one, len(ids)) == []
    one.num_computed_tokens = len(ids)
    manager.publish(one, reader(ids))
    return one


def num_adopted(manager: BlockManager, ids: list[int], table: BlockTable | None = None) -> int:
    return manager.adopt_prefix(BlockTable() if table is None else table, reader(ids), len(ids))


def test_a_request_shares_the_full_blocks_of_one_with_the_same_beginning() -> None:
    manager = BlockManager(10, block_size=4)
    first, second = computed(list(range(11)), manager), BlockTable()
    assert num_adopted(manager, [*range(8), 99, 98, 97, 96, 95], second) == 8
    assert second.blocks == first.blocks[:2]
    assert manager.num_free_blocks == 7
    manager.release(first)
    assert manager.num_free_blocks == 8, "the second still uses two of the three"
    manager.check_integrity()


@pytest.mark.parametrize(("length", "num_found"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8)])
def test_at_least_one_token_is_left_to_compute(length: int, num_found: int) -> None:
    manager = BlockManager(10, block_size=4)
    computed(list(range(12)), manager)
    assert num_adopted(manager, list(range(length))) == num_found


@pytest.mark.parametrize("changes", [{"salt": b"other"}, {"alpha_slot": 1}, {"first_position": 3}])
def test_nothing_is_shared_where_keys_or_users_differ(changes) -> None:
    settings = {"salt": b"", "alpha_slot": 0, "first_position": 0}
    manager, ids = BlockManager(10, block_size=4), list(range(9))
    computed(ids, manager, prefix_root(**settings))
    assert num_adopted(manager, ids, BlockTable(prefix_root(**settings))) == 8
    assert num_adopted(manager, ids, BlockTable(prefix_root(**(settings | changes)))) == 0


def test_a_block_is_known_by_all_ids_before_it_too() -> None:
    manager = BlockManager(10, block_size=4)
    computed([1, 2, 3, 4, 5, 6, 7, 8, 9], manager)
    assert num_adopted(manager, [0, 2, 3, 4, 5, 6, 7, 8, 9]) == 0


def test_only_computed_blocks_are_known() -> None:
    manager, ids = BlockManager(10, block_size=4), list(range(12))
    one, later = BlockTable(), BlockTable()
    manager.grow(one, 9)
    one.num_computed_tokens = 7
    manager.publish(one, reader(ids))
    assert num_adopted(manager, ids, later) == 4 == later.num_computed_tokens
    manager.release(later)
    one.num_computed_tokens = 8
    manager.publish(one, reader(ids))
    assert num_adopted(manager, ids, later) == 8


def test_the_first_block_with_some_content_is_the_one_that_is_found() -> None:
    manager, ids = BlockManager(10, block_size=4), list(range(5))
    first, third = computed(ids, manager), BlockTable()
    computed(ids, manager)  # computed at the same time, without finding each other
    num_adopted(manager, ids, third)
    assert third.blocks == first.blocks[:1]
    manager.check_integrity()


def test_a_request_that_was_preempted_finds_its_blocks_until_others_take_them() -> None:
    manager, ids = BlockManager(4, block_size=4), list(range(13))
    one = computed(ids, manager)
    manager.release(one)
    assert manager.num_free_blocks == 4 and one.num_computed_tokens == 0
    manager.grow(BlockTable(), 8)  # takes the block without content, then the end of the prompt
    assert num_adopted(manager, ids, one) == 8
    manager.check_integrity()


def test_what_is_forgotten_is_not_found_and_what_is_in_use_is() -> None:
    manager = BlockManager(10, block_size=4)
    ended, running = computed([1] * 9, manager), computed([2] * 9, manager)
    manager.release(ended)
    manager.forget_free()
    manager.check_integrity()
    assert (num_adopted(manager, [1] * 9), num_adopted(manager, [2] * 9)) == (0, 8)
    assert running.num_published_blocks == 2 and manager.num_free_blocks == 7


@pytest.mark.parametrize("at_once", [1, 2, 3, 11])
def test_the_hashes_are_the_documented_chain_however_many_are_computed_at_once(at_once: int) -> None:
    manager, ids, root = BlockManager(11, block_size=4), list(range(44)), prefix_root(b"salt", 0, 0)
    table, expected = BlockTable(root), [root]
    for start in range(0, 44, 4):
        expected.append(sha256(expected[-1] + array("q", ids[start : start + 4]).tobytes()).digest())
    manager.grow(table, 44)
    for num_computed in (*range(4 * at_once, 44, 4 * at_once), 44):
        table.num_computed_tokens = num_computed
        manager.publish(table, reader(ids))
        assert table.hashes == expected[1 : num_computed // 4 + 1]


def test_what_was_used_longest_ago_is_taken_first() -> None:
    manager = BlockManager(5, block_size=4)
    old, new = computed([1] * 9, manager), computed([2] * 6, manager)
    manager.release(old)
    manager.release(new)
    assert manager.grow(BlockTable(), 12) == []  # two without content, and the end of what is oldest
    assert num_adopted(manager, [2] * 6) == 4
    assert num_adopted(manager, [1] * 9) == 4
    manager.check_integrity()


def test_a_fork_shares_what_is_computed_and_copies_the_last_block_before_it_is_written() -> None:
    manager = BlockManager(10, block_size=4)
    one = computed(list(range(6)), manager)
    assert manager.grow(one, 12) == [] and len(one.blocks) == 3
    twin = manager.fork(one)
    assert twin.blocks == one.blocks[:2] and twin.num_computed_tokens == 6
    assert manager.grow(twin, 6) == [], "nothing is written"
    ((source, target),) = manager.grow(twin, 7) or ()
    assert source == one.blocks[1] and target == twin.blocks[1] not in one.blocks
    assert manager.grow(one, 7) == [], "it is alone now"
    manager.check_integrity()


def test_the_first_to_write_gets_the_copy_whoever_was_forked() -> None:
    manager = BlockManager(10, block_size=4)
    one = computed(list(range(6)), manager)
    twin = manager.fork(one)
    assert manager.grow(one, 7) == [(twin.blocks[1], one.blocks[1])] and manager.grow(twin, 9) == []
    manager.check_integrity()


def test_a_copy_that_finds_no_block_changes_nothing() -> None:
    manager = BlockManager(3, block_size=4)
    one = computed(list(range(6)), manager)
    twin = manager.fork(one)
    manager.grow(BlockTable(), 1)
    assert manager.grow(twin, 7) is None and twin.blocks == one.blocks
    manager.check_integrity()


def test_what_is_cropped_is_free_and_a_block_that_is_written_anew_is_not_found_any_more() -> None:
    manager, ids = BlockManager(10, block_size=4), list(range(12))
    one = computed(ids, manager)
    manager.crop(one, 6)
    assert (len(one.blocks), one.num_computed_tokens, one.num_published_blocks, len(one.hashes)) == (2, 6, 1, 1)
    other = BlockTable()
    assert num_adopted(manager, ids, other) == 8, "its content still stands"
    ((source, _),) = manager.grow(one, 7) or ()
    assert source == other.blocks[1]
    manager.release(other)
    manager.crop(one, 3)
    assert manager.grow(one, 4) == []
    assert num_adopted(manager, ids) == 0, "its first block is written anew"
    manager.check_integrity()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=40), st.integers(1, 12), st.integers(1, 5))
def test_any_order_of_growing_and_releasing_keeps_every_block_once(actions, num_blocks, block_size) -> None:
    manager, tables = BlockManager(num_blocks, block_size), [BlockTable() for _ in range(5)]
    for who, num_tokens in actions:
        if num_tokens == 0:
            manager.release(tables[who])
        elif manager.grow(tables[who], num_tokens) is not None:
            assert len(tables[who].blocks) >= manager.num_blocks_for(num_tokens)
        manager.check_integrity()
    for one in tables:
        manager.release(one)
    assert manager.num_free_blocks == num_blocks


BLOCK_SIZE = 3
owners = st.integers(0, 3)


class Blocks(RuleBasedStateMachine):
    """Owners that write, fork, crop, publish, find and release in any order, against what they wrote themselves.

    The cache is a list of slots. Whatever the others do, an owner reads what it wrote, and what it adopted or forked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(12, BLOCK_SIZE)
        self.slots = [-1] * 12 * BLOCK_SIZE
        self.owners: dict[BlockTable, list[int]] = {}  # with the tokens that each must read
        self.known: dict[bytes, list[int]] = {}  # what a block with this hash must hold

    def chosen(self, number: int) -> BlockTable:
        return list(self.owners)[number % len(self.owners)]

    def slot(self, table: BlockTable, place: int) -> int:
        return table.blocks[place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE

    def write(self, table: BlockTable, ids: list[int], num_spare: int = 0) -> None:
        """A step: blocks, copies, keys and values."""
        written = self.owners[table]
        before = list(table.blocks)
        copies = self.manager.grow(table, len(written) + len(ids) + num_spare)
        if copies is None:
            assert table.blocks == before
            return
        for source, target in copies:
            content = self.slots[source * BLOCK_SIZE : (source + 1) * BLOCK_SIZE]
            self.slots[target * BLOCK_SIZE : (target + 1) * BLOCK_SIZE] = content
        for token_id in ids:
            self.slots[self.slot(table, len(written))] = token_id
            written.append(token_id)
        table.num_computed_tokens = len(written)

    @initialize(num_owners=st.integers(2, 4), salts=st.lists(st.sampled_from([b"", b"", b"salt"]), min_size=4))
    def arrive(self, num_owners: int, salts: list[bytes]) -> None:
        self.owners = {BlockTable(salt): [] for salt in salts[:num_owners]}

    @rule(who=owners, ids=st.lists(st.integers(0, 1), min_size=1, max_size=8))
    def compute(self, who: int, ids: list[int]) -> None:
        self.write(self.chosen(who), ids)

    @rule(who=owners, num_spare=st.integers(1, 10))
    def draft(self, who: int, num_spare: int) -> None:
        """Room for tokens that do not come."""
        self.write(self.chosen(who), [], num_spare)

    @rule(who=owners, other=owners)
    def fork(self, who: int, other: int) -> None:
        """As a beam does that takes the place of another one."""
        table, replaced = self.chosen(who), self.chosen(other)
        if table is not replaced:
            self.owners[self.manager.fork(table)] = list(self.owners[table])
            self.manager.release(replaced)
            del self.owners[replaced]

    @rule(who=owners, num_cropped=st.integers(0, 5))
    def crop(self, who: int, num_cropped: int) -> None:
        table = self.chosen(who)
        num_tokens = max(len(self.owners[table]) - num_cropped, 0)
        self.manager.crop(table, num_tokens)
        del self.owners[table][num_tokens:]

    @rule(who=owners)
    def publish(self, who: int) -> None:
        table = self.chosen(who)
        written = self.owners[table]
        self.manager.publish(table, reader(written))
        for index, block_hash in enumerate(table.hashes):
            self.known[block_hash] = written[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]

    @rule()
    def forget(self) -> None:
        self.manager.forget_free()
        used = {block for table in self.owners for block in table.blocks}
        assert self.manager._hash_of.keys() <= used

    @rule(who=owners, ids=st.lists(st.integers(0, 1), min_size=1, max_size=8))
    def find(self, who: int, ids: list[int]) -> None:
        """A table takes its own tokens up again, or those of others: there are few ids."""
        table = self.chosen(who)
        self.manager.release(table)
        wanted = self.owners[table] + ids
        num_found = self.manager.adopt_prefix(table, reader(wanted), len(wanted))
        assert num_found == table.num_computed_tokens < len(wanted)
        self.manager.crop(table, num_found)  # it may go on otherwise
        self.owners[table] = wanted[:num_found]

    @invariant()
    def everyone_reads_what_it_wrote(self) -> None:
        for table, written in self.owners.items():
            assert table.num_computed_tokens == len(written)
            assert [self.slots[self.slot(table, place)] for place in range(len(written))] == written

    @invariant()
    def what_can_be_found_is_what_it_is_known_as(self) -> None:
        for block, block_hash in self.manager._hash_of.items():
            assert self.slots[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] == self.known[block_hash]

    @invariant()
    def no_block_is_lost(self) -> None:
        self.manager.check_integrity()
        used = {block for table in self.owners for block in table.blocks}
        assert self.manager.num_free_blocks == 12 - len(used)


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
