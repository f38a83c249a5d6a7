"""Which part of a layer belongs to this process, if several ranks share a network? By default: all of it.

Tensor parallelism (Shoeybi et al. 2019): qkv, up and gate are split by rows, output and down by columns, so that each
block needs one sum over the ranks behind output and one behind down. Layers ask a ParallelContext for their sizes and
for these sums; a launcher passes one whose `all_reduce` communicates with other processes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ParallelContext:
    """One rank of `world_size`; a single one computes everything and sums nothing."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world_size, (self.rank, self.world_size)

    def share(self, size: int, what: str) -> int:
        """How many of `size` things (heads, columns) each rank has; ValueError where they do not divide evenly."""
        if size % self.world_size:
            raise ValueError(f"{size} {what} cannot be divided evenly among {self.world_size} ranks")
        return size // self.world_size

    def part(self, size: int, what: str) -> slice:
        """This rank's slice of them."""
        share = self.share(size, what)
        return slice(self.rank * share, (self.rank + 1) * share)

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of x over all ranks."""
        assert self.world_size == 1, "a context of several ranks must override all_reduce"
        return x


SINGLE = ParallelContext()
