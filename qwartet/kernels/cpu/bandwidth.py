"""How close to memory bandwidth the quantised linears of a loaded network run: the figure of the start-up line."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from qwartet.kernels.backend import Backend, PreparedWeight
from qwartet.kernels.cpu.backend import CpuBackend
from qwartet.kernels.cpu.weights import PackedWeight

LEAST_BYTES = 64 * 2**20  # less fits in the caches and says nothing about the memory
ENOUGH_BYTES = 256 * 2**20
ROUNDS = 3
READ_PATTERNS = (0, 1, 2)


@dataclass(frozen=True)
class Bandwidth:
    """Of multiplying one token by some weights, and of only reading the same bytes; the best of three each."""

    linear_gb_s: float  # 1e9 bytes a second
    read_gb_s: float

    @property
    def share(self) -> float:
        return self.linear_gb_s / self.read_gb_s


def measure_bandwidth(backend: Backend, weights: Iterable[PreparedWeight]) -> Bandwidth | None:
    """Takes 0.1 to 0.2 s; None for weights that fit in the caches, and without the native library."""
    if not isinstance(backend, CpuBackend):
        return None
    library = backend.library
    chosen: list[PackedWeight] = []
    for weight in weights:
        if isinstance(weight, PackedWeight) and sum(one.panels.nbytes for one in chosen) < ENOUGH_BYTES:
            chosen.append(weight)
    num_bytes = sum(weight.panels.nbytes for weight in chosen)
    if num_bytes < LEAST_BYTES:
        return None
    inputs = {weight.in_features: torch.ones(1, weight.in_features, dtype=torch.bfloat16) for weight in chosen}

    def read(pattern: int) -> float:
        time_read = library.functions.qw_time_read
        return sum(float(time_read(weight.panels.data_ptr(), weight.panels.nbytes, pattern)) for weight in chosen)

    def multiply() -> float:
        started = time.perf_counter()
        for weight in chosen:
            backend.quantized_linear(inputs[weight.in_features], weight)
        return time.perf_counter() - started

    multiply()  # reads mapped pages in
    seconds = min(multiply() for _ in range(ROUNDS))
    read_seconds = min(read(pattern) for _ in range(ROUNDS) for pattern in READ_PATTERNS)
    return Bandwidth(num_bytes / seconds / 1e9, num_bytes / read_seconds / 1e9)
