"""The order of the data: a function of seed and epoch, shared among processes; packing fills batches."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from qwartet.finetune.batches import Batches, packed


def epochs(batches: Batches, count: int = 2) -> list[list[list[int]]]:
    found = []
    for epoch in range(count):
        batches.set_epoch(epoch)
        found.append(list(batches))
    return found


def test_each_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    first, second = epochs(Batches(11, size=4, seed=3))
    for epoch in (first, second):
        assert sorted(chain(*epoch)) == list(range(11)) and list(map(len, epoch)) == [4, 4, 3]
    assert first != second
    assert epochs(Batches(11, size=4, seed=3)) == [first, second] != epochs(Batches(11, size=4, seed=4))
    assert list(Batches(5, size=2, shuffles=False)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_processes_share_the_batches_of_one_process(num_ranks: int) -> None:
    whole = list(Batches(11, size=2, seed=1))
    parts = [Batches(11, size=2, seed=1, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    columns = [list(part) for part in parts]
    assert len({len(column) for column in columns}) == 1
    own = [batch for row in zip(*columns, strict=True) for batch in row]
    assert own[: len(whole)] == whole and own[len(whole) :] == whole[: len(own) - len(whole)]
    assert sum(part.is_own(number) for part in parts for number in range(len(part))) == len(whole)


def test_packing_fills_batches_and_loses_nothing() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(5, 300) for _ in range(500)] + [2000]
    batches = packed(lengths, 1024, seed=0)
    assert sorted(chain(*batches)) == list(range(501))
    assert [500] in batches, "one that is longer than the budget is alone"
    sums = [sum(lengths[index] for index in batch) for batch in batches if batch != [500]]
    assert max(sums) <= 1024 and sum(sums) / len(sums) > 0.95 * 1024
    assert batches == packed(lengths, 1024, seed=0) != packed(lengths, 1024, seed=1)
