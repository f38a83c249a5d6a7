"""Which blocks of the KV cache are free and which request owns the others. Integers only."""

from __future__ import annotations

from collections import deque

from qwartet.engine.request import Request


class BlockManager:
    """Hands out cache blocks; `check_integrity` holds after every public call."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free: deque[int] = deque(range(num_blocks))
        self._owned: dict[int, list[int]] = {}  # request id -> its block table

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-num_tokens // self.block_size)

    def grow(self, request: Request, num_tokens: int) -> bool:
        """Extends the request's block table to hold `num_tokens` tokens; False, and no change, if it cannot."""
        missing = self.num_blocks_for(num_tokens) - len(request.block_table)
        if missing > len(self._free):
            return False
        request.block_table.extend(self._free.popleft() for _ in range(missing))
        self._owned[request.request_id] = request.block_table
        return True

    def release(self, request: Request) -> None:
        """Takes back all blocks of a request."""
        self._free.extend(request.block_table)
        self._owned.pop(request.request_id, None)
        request.block_table = []

    def check_integrity(self) -> None:
        """Every block is either free or owned by exactly one request."""
        owned = [block for table in self._owned.values() for block in table]
        seen = sorted([*self._free, *owned])
        assert seen == list(range(self.num_blocks)), f"blocks lost or shared: {len(self._free)} free, {owned} owned"
