"""Which blocks of the KV cache hold what, who uses them, and which may be taken. Integers only.

A full block is known by a hash over all ids up to its end, so that a request finds the blocks of another one with the
same beginning and shares them (no copy: full blocks are never written again).

    hash of block i = sha256(hash of block i - 1, ids of block i)
    hash of block -1 = sha256(salt, NTK alpha, first position)      all that keys and values depend on besides ids

    in use     references >= 1
    free       references = 0; keeps its content and its hash until it is taken, the longest unused first

So preemption costs a request only what others took meanwhile: it finds its own blocks again by the same means.
Source: Kwon et al. 2023; the chain of hashes as in vLLM.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from hashlib import sha256

from qwartet.engine.request import Request


class BlockManager:
    """Hands out cache blocks; `check_integrity` holds after every public call."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # taken from the front
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._owners: dict[int, Request] = {}  # by request id: all that have blocks

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody uses, with or without content."""
        return len(self._free)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-num_tokens // self.block_size)

    def adopt_prefix(self, request: Request) -> int:
        """Gives a request without blocks those that hold its beginning already; returns the tokens that they hold.

        At least one token is left to compute: its logits are wanted.
        """
        assert not request.block_table, "a request with blocks cannot adopt others"
        num_blocks = (request.num_tokens - 1) // self.block_size
        for block_hash in self._hashes(request, num_blocks)[:num_blocks]:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            self._use(block)
            request.block_table.append(block)
        if request.block_table:
            self._owners[request.request_id] = request
        return len(request.block_table) * self.block_size

    def grow(self, request: Request, num_tokens: int) -> bool:
        """Extends the request's block table to hold `num_tokens` tokens; False, and no change, if it cannot."""
        num_missing = self.num_blocks_for(num_tokens) - len(request.block_table)
        if num_missing > len(self._free):
            return False
        for _ in range(num_missing):
            block = next(iter(self._free))
            self._use(block)
            self._forget_content(block)
            request.block_table.append(block)
        if request.block_table:
            self._owners[request.request_id] = request
        return True

    def publish(self, request: Request) -> None:
        """Makes the request's full blocks known, as far as they are computed; the first with some content stands."""
        num_full = request.num_computed_tokens // self.block_size
        if num_full <= request.num_published_blocks:
            return
        hashes = self._hashes(request, num_full)
        for index in range(request.num_published_blocks, num_full):
            block, block_hash = request.block_table[index], hashes[index]
            if block not in self._hash_of and block_hash not in self._block_of:
                self._hash_of[block] = block_hash
                self._block_of[block_hash] = block
        request.num_published_blocks = num_full

    def release(self, request: Request) -> None:
        """Takes back all blocks of a request. What nobody else uses is free: its end is taken before its beginning."""
        for block in reversed(request.block_table):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    self._free.move_to_end(block, last=False)  # nothing to be found in it: taken first
        self._owners.pop(request.request_id, None)
        request.block_table = []
        request.num_published_blocks = 0

    def check_integrity(self) -> None:
        """Every block is free or in use, as often as block tables name it, and known by one hash at most."""
        tables = [block for request in self._owners.values() for block in request.block_table]
        counts = [0] * self.num_blocks
        for block in tables:
            counts[block] += 1
        assert counts == self._references, "references and block tables differ"
        assert sorted(self._free) == [block for block, count in enumerate(counts) if not count], "a block was lost"
        assert {block: block_hash for block_hash, block in self._block_of.items()} == self._hash_of, "hashes differ"
        for request in self._owners.values():
            room = len(request.block_table) * self.block_size
            assert request.num_computed_tokens <= room, f"{request.num_computed_tokens} tokens in room for {room}"

    def _use(self, block: int) -> None:
        self._references[block] += 1
        self._free.pop(block, None)

    def _forget_content(self, block: int) -> None:
        block_hash = self._hash_of.pop(block, None)
        if block_hash is not None:
            del self._block_of[block_hash]

    def _hashes(self, request: Request, num_blocks: int) -> list[bytes]:
        """The hashes of the request's blocks, at least the first `num_blocks`; made once, since ids do not change."""
        hashes, size = request.block_hashes, self.block_size
        while len(hashes) < num_blocks:
            parent = hashes[-1] if hashes else _root(request)
            ids = array("q", request.token_ids(len(hashes) * size, (len(hashes) + 1) * size))
            hashes.append(sha256(parent + ids.tobytes()).digest())
        return hashes


def _root(request: Request) -> bytes:
    numbers = array("q", [request.alpha_slot, request.first_position, len(request.salt)])
    return sha256(numbers.tobytes() + request.salt).digest()
