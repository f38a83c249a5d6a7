"""Two ranks with half of the heads and columns each, summed where a context sums, are the whole network."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import pytest
import torch
from torch import Tensor

from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.parallel import SINGLE, ParallelContext
from qwartet.models.qwen import QwenModel
from tests.reference.tiny_model import tiny_network, tiny_weights


class Meeting:
    """Where the ranks, threads here, bring their parts together."""

    def __init__(self, world_size: int) -> None:
        self.parts: list[Tensor] = [torch.empty(0)] * world_size
        self.barrier = threading.Barrier(world_size, timeout=60)


@dataclass(frozen=True)
class ThreadContext(ParallelContext):
    meeting: Meeting = dataclass_field(default_factory=lambda: Meeting(2))

    def all_reduce(self, x: Tensor) -> Tensor:
        self.meeting.parts[self.rank] = x
        self.meeting.barrier.wait()
        total = torch.stack(self.meeting.parts).sum(0)
        self.meeting.barrier.wait()
        return total


def part_of(whole: QwenModel, context: ParallelContext) -> QwenModel:
    """The network of one rank, with its part of the weights."""
    network = QwenModel(whole.config, parallel=context)
    config = whole.config
    heads, columns = context.part(config.num_heads, "heads"), context.part(config.intermediate_size, "columns")
    for (name, parameter), (_, source) in zip(network.named_parameters(), whole.named_parameters(), strict=True):
        value = source.detach()
        if ".qkv." in name:
            value = value.unflatten(0, (3, config.num_heads, config.head_dim))[:, heads].flatten(0, 2)
        elif name.endswith("output.weight"):
            value = value.unflatten(1, (config.num_heads, config.head_dim))[:, heads].flatten(1)
        elif name.endswith(("up.weight", "gate.weight")):
            value = value[columns]
        elif name.endswith("down.weight"):
            value = value[:, columns]
        parameter.data = value.clone()
    return network.eval()


def test_two_ranks_give_the_logits_of_one() -> None:
    whole = tiny_network(tiny_weights())
    meeting = Meeting(2)
    ranks = [part_of(whole, ThreadContext(rank, 2, meeting)) for rank in range(2)]
    batch = dense_batch([[1, 2, 3, 4, 5], [6, 7]], whole.config.position)

    def run(network: QwenModel) -> Tensor:
        with torch.inference_mode():
            return network(batch)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, ranks)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, run(whole), rtol=0, atol=1e-4)


def test_a_single_rank_has_everything_and_sums_nothing() -> None:
    x = torch.ones(3)
    assert SINGLE.all_reduce(x) is x and SINGLE.part(7, "heads") == slice(0, 7)


def test_what_cannot_be_shared_evenly_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="7 heads cannot be divided evenly among 2 ranks"):
        ParallelContext(0, 2).share(7, "heads")
