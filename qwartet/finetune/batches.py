"""Which examples come in which step: a function of the seed and the epoch alone, so that a resumed run sees the same.

Without packing a batch has a fixed number of examples. With packing it has as many as fit a budget of tokens: rows of
different lengths cost no padding, so full batches are all that packing gains, and no attention crosses from one
conversation to another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Sampler


class Batches(Sampler[list[int]]):
    """Indices of each batch that one of `num_ranks` processes computes in an epoch; every rank has as many.

    All ranks together see the batches of one process, in the same order; the first are repeated where the number of
    batches does not divide.
    """

    def __init__(
        self, batches: Sequence[list[int]] | int, *, size: int = 1, seed: int = 0, shuffles: bool = True,
        rank: int = 0, num_ranks: int = 1,
    ) -> None:  # fmt: skip
        """`batches`: given ones, of which only the order changes, or the number of examples, for batches of `size`."""
        self.given, self.size, self.seed, self.shuffles = batches, size, seed, shuffles
        self.rank, self.num_ranks, self.epoch = rank, num_ranks, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before an epoch begins."""
        self.epoch = epoch

    def _all(self) -> list[list[int]]:
        order = list(range(self.given if isinstance(self.given, int) else len(self.given)))
        if self.shuffles:
            random.Random(f"order {self.seed} {self.epoch}").shuffle(order)
        if isinstance(self.given, int):
            return [order[start : start + self.size] for start in range(0, len(order), self.size)]
        return [self.given[number] for number in order]

    @property
    def _count(self) -> int:
        return -(-self.given // self.size) if isinstance(self.given, int) else len(self.given)

    def __len__(self) -> int:
        return -(-self._count // self.num_ranks)

    def is_own(self, number: int) -> bool:
        """Whether the batch of this rank with a number is not one of the repeated ones."""
        return number * self.num_ranks + self.rank < self._count

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._all()
        for number in range(len(self)):
            yield batches[(number * self.num_ranks + self.rank) % len(batches)]


def packed(lengths: Sequence[int], tokens: int, seed: int) -> list[list[int]]:
    """Examples in batches of at most `tokens` tokens each, best fit of a shuffled order; a longer one is alone.

    Every example is in exactly one batch.
    """
    order = list(range(len(lengths)))
    random.Random(f"packing {seed}").shuffle(order)
    batches: list[list[int]] = []
    open_batches: list[tuple[int, int]] = []  # (free tokens, batch), few enough to search
    for index in order:
        fitting = min((one for one in open_batches if one[0] >= lengths[index]), default=None)
        if fitting is None:
            batches.append([index])
            open_batches.append((tokens - lengths[index], len(batches) - 1))
        else:
            free, batch = fitting
            open_batches.remove(fitting)
            batches[batch].append(index)
            open_batches.append((free - lengths[index], batch))
        open_batches = sorted(open_batches, reverse=True)[:64]
    return batches


class Loader(DataLoader[Any]):
    """A DataLoader that passes the epoch on to its batches."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before an epoch begins."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
