"""Which blocks of the KV cache hold what, who uses them, and which are free. Integers only.

A fully computed block is identified by a hash over all ids up to its end, so that a table finds the blocks of another
one with the same prefix and shares them.

    hash of block i = sha256(hash of block i - 1, ids of block i)
    hash of block -1 = root of the table       everything besides ids that keys and values depend on (`prefix_root`)

    in use     references >= 1
    free       references = 0; keeps its content and its hash until it is taken, least recently used first

So preemption costs a request only the blocks that others took meanwhile: it finds the rest again by hash. A block is
written only while it belongs to one table and cannot be found by hash: a forked table gets a copy first, and a cropped
block loses its hash. Source: Kwon et al. 2023; the chain of hashes as in vLLM.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

BlockCopy = tuple[int, int]
"""A block, and the block to copy its keys and values to before the next step."""

TokenIds = Callable[[int, int], Sequence[int]]
"""From start and end to the ids start : end of an owner."""


@dataclass(eq=False)
class BlockTable:
    """The blocks of one owner, in the order of its tokens; only the manager changes them."""

    root: bytes = b""  # only tables with the same one find each other's blocks
    blocks: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0  # whose keys and values are in the blocks
    num_published_blocks: int = 0  # which others may find
    hashes: list[bytes] = field(default_factory=list)  # of full blocks, computed on demand


def prefix_root(salt: bytes, alpha_slot: int, first_position: int, adapter: int = -1) -> bytes:
    """The root for ids at positions from `first_position` on, turned by an NTK alpha, and computed with an adapter.

    `salt` keeps users apart.
    """
    return sha256(array("q", [alpha_slot, first_position, adapter, len(salt)]).tobytes() + salt).digest()


class BlockManager:
    """Hands out cache blocks; `check_integrity` holds after every public call."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # taken from the front
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._tables: set[BlockTable] = set()  # all tables with blocks

    @property
    def num_free_blocks(self) -> int:
        """Unused blocks, with or without content."""
        return len(self._free)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-num_tokens // self.block_size)

    def adopt_prefix(self, table: BlockTable, token_ids: TokenIds, num_tokens: int) -> int:
        """Gives an empty table the cached blocks of its tokens' prefix; returns how many tokens they hold.

        At least one token is left to compute, for its logits.
        """
        assert not table.blocks, "a table with blocks cannot adopt others"
        num_blocks = (num_tokens - 1) // self.block_size
        for block_hash in self._hashes(table, token_ids, num_blocks)[:num_blocks]:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            self._add(table, block)
        table.num_computed_tokens = len(table.blocks) * self.block_size
        return table.num_computed_tokens

    def grow(self, table: BlockTable, num_tokens: int) -> list[BlockCopy] | None:
        """Extends a table to hold `num_tokens` tokens, so that those not computed yet can be written.

        Returns the copies to make first; None, with nothing changed, if there are too few blocks.
        """
        place, num_kept = divmod(table.num_computed_tokens, self.block_size)
        is_partial = num_kept > 0 and num_tokens > table.num_computed_tokens
        is_shared = is_partial and self._references[table.blocks[place]] > 1
        num_missing = max(self.num_blocks_for(num_tokens) - len(table.blocks), 0)
        if num_missing + is_shared > len(self._free):
            return None
        copies = []
        if is_shared:
            source, target = table.blocks[place], self._take()
            copies.append((source, target))
            self._references[source] -= 1
            self._references[target] += 1
            table.blocks[place] = target
        elif is_partial:
            self._forget_content(table.blocks[place])  # its hash, if it was full before a crop
        for _ in range(num_missing):
            self._add(table, self._take())
        return copies

    def fork(self, table: BlockTable) -> BlockTable:
        """A second table with the tokens computed so far; it shares all their blocks."""
        twin = BlockTable(table.root, [], table.num_computed_tokens, table.num_published_blocks, list(table.hashes))
        for block in table.blocks[: self.num_blocks_for(table.num_computed_tokens)]:
            self._add(twin, block)
        return twin

    def crop(self, table: BlockTable, num_tokens: int) -> None:
        """Takes back the blocks beyond a table's first tokens, which may now continue with other ids."""
        self._give_back(table, num_tokens)
        del table.hashes[num_tokens // self.block_size :]

    def release(self, table: BlockTable) -> None:
        """Takes back all blocks of a table."""
        self._give_back(table, 0)

    def _give_back(self, table: BlockTable, num_tokens: int) -> None:
        """Frees the blocks that no other table uses, so that the end of a table is reused before its beginning."""
        num_kept = self.num_blocks_for(num_tokens)
        for block in reversed(table.blocks[num_kept:]):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    self._free.move_to_end(block, last=False)  # its content cannot be found: taken first
        del table.blocks[num_kept:]
        table.num_computed_tokens = min(table.num_computed_tokens, num_tokens)
        table.num_published_blocks = min(table.num_published_blocks, num_tokens // self.block_size)
        if not table.blocks:
            self._tables.discard(table)

    def publish(self, table: BlockTable, token_ids: TokenIds) -> None:
        """Makes a table's computed full blocks findable; the first block with a given content stays."""
        num_full = table.num_computed_tokens // self.block_size
        if num_full <= table.num_published_blocks:
            return
        hashes = self._hashes(table, token_ids, num_full)
        for index in range(table.num_published_blocks, num_full):
            block, block_hash = table.blocks[index], hashes[index]
            if block not in self._hash_of and block_hash not in self._block_of:
                self._hash_of[block] = block_hash
                self._block_of[block_hash] = block
        table.num_published_blocks = num_full

    def forget_free(self) -> None:
        """Makes the content of all free blocks unfindable, as if their requests had never been."""
        for block in self._free:
            self._forget_content(block)

    def check_integrity(self) -> None:
        """Every block is free, or referenced as often as tables name it, and has at most one hash; blocks still to be
        written belong to one table.
        """
        counts = [0] * self.num_blocks
        for table in self._tables:
            for block in table.blocks:
                counts[block] += 1
        assert counts == self._references, "references and block tables differ"
        assert sorted(self._free) == [block for block, count in enumerate(counts) if not count], "a block was lost"
        assert {block: block_hash for block_hash, block in self._block_of.items()} == self._hash_of, "hashes differ"
        for table in self._tables:
            room, num_computed = len(table.blocks) * self.block_size, table.num_computed_tokens
            assert num_computed <= room, f"{num_computed} tokens in room for {room}"
            assert table.num_published_blocks * self.block_size <= num_computed, "known before it is computed"
            unwritten = table.blocks[self.num_blocks_for(num_computed) :]
            assert all(counts[block] == 1 and block not in self._hash_of for block in unwritten), "not to be written"

    def _add(self, table: BlockTable, block: int) -> None:
        self._references[block] += 1
        self._free.pop(block, None)
        table.blocks.append(block)
        self._tables.add(table)

    def _take(self) -> int:
        """The least recently used free block; its content can no longer be found."""
        block, _ = self._free.popitem(last=False)
        self._forget_content(block)
        return block

    def _forget_content(self, block: int) -> None:
        block_hash = self._hash_of.pop(block, None)
        if block_hash is not None:
            del self._block_of[block_hash]

    def _hashes(self, table: BlockTable, token_ids: TokenIds, num_blocks: int) -> list[bytes]:
        """The hashes of a table's blocks, at least the first `num_blocks`; computed once: only a crop changes ids."""
        hashes, size = table.hashes, self.block_size
        if len(hashes) < num_blocks:
            ids = array("q", token_ids(len(hashes) * size, num_blocks * size))
            last, content, num_bytes = hashes[-1] if hashes else table.root, ids.tobytes(), size * ids.itemsize
            for start in range(0, len(content), num_bytes):
                last = sha256(last + content[start : start + num_bytes]).digest()
                hashes.append(last)
        return hashes
