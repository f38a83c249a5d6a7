"""Streamed weights are there when they are needed, given back afterwards, and give the same bits."""

from __future__ import annotations

import mmap
import threading

import pytest
import torch
from torch import Tensor

from qwartet.layers.weight_stream import AHEAD, WeightStream, ranges_of

POPULATE, PAGEOUT = 22, 21


class Advice:
    """Takes the place of madvise: which layers are in memory, and what was asked of them."""

    def __init__(self, layers: list[Tensor]) -> None:
        self.layer_of = {tensor.data_ptr(): layer for layer, tensor in enumerate(layers)}
        self.present: set[int] = set()
        self.most_present = 0
        self.lock = threading.Lock()

    def __call__(self, address: int, num_bytes: int, advice: int) -> None:
        with self.lock:
            layer = self.layer_of[address]
            self.present.add(layer) if advice == POPULATE else self.present.remove(layer)
            self.most_present = max(self.most_present, len(self.present))


def stream_of(num_layers: int, resident: int) -> tuple[WeightStream, Advice]:
    layers = [torch.zeros(100, dtype=torch.uint8) for _ in range(num_layers)]
    advice = Advice(layers)
    return WeightStream([[tensor] for tensor in layers], resident * 100, advice), advice


@pytest.mark.parametrize(("num_layers", "resident"), [(1, 0), (2, 0), (2, 1), (5, 0), (5, 2), (5, 4), (6, 3)])
def test_each_streamed_layer_is_in_memory_when_it_runs_and_few_others_are(num_layers, resident) -> None:
    stream, advice = stream_of(num_layers, resident)
    assert (stream.num_resident, stream.streamed_bytes) == (resident, 100 * (num_layers - resident))
    for _step in range(4):
        ran = []
        for first, end in stream.spans():
            stream.before(first)
            ran += range(first, end)
            assert first < resident or first in advice.present
            stream.after(first)
            assert first < resident or first not in advice.present
        assert ran == list(range(num_layers))
    assert advice.most_present <= AHEAD + 1
    assert not advice.present & set(range(resident))


def test_a_model_that_fits_is_one_span_and_asks_for_nothing() -> None:
    stream, advice = stream_of(4, 4)
    stream.before(0)
    stream.after(0)
    assert stream.spans() == [(0, 4)] and not advice.most_present


def test_a_failed_fetch_is_told_where_the_layer_is_needed() -> None:
    def fail(*_arguments: int) -> None:
        raise OSError("the disk is gone")

    stream = WeightStream([[torch.zeros(8)], [torch.zeros(8)]], 0, fail)
    with pytest.raises(OSError, match="the disk is gone"):
        stream.before(0)


def test_neighbours_in_memory_are_one_range() -> None:
    store = torch.zeros(10 * mmap.PAGESIZE, dtype=torch.uint8)
    near = [store[:1000], store[1000:5000], store[5064:6000]]
    far = store[8 * mmap.PAGESIZE :]
    assert ranges_of([far, *reversed(near)]) == [
        (store.data_ptr(), 6000),
        (far.data_ptr(), far.nbytes),
    ]
