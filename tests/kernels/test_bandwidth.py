"""The share of the memory's speed is a plausible one, and is not claimed where it cannot be known."""

from __future__ import annotations

import pytest

from qwartet.kernels.backend import REFERENCE
from qwartet.kernels.cpu import bandwidth
from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.backend import CpuBackend
from tests.kernels.random_weights import random_weight


@pytest.mark.skipif(native.native_library() is None, reason="there is no native library")
def test_a_share_is_measured_for_weights_that_are_large_enough(monkeypatch) -> None:
    cpu = CpuBackend(native.native_library(), "int8")
    weights = [cpu.prepare(random_weight(1024, 1024, seed=seed)) for seed in range(3)]
    assert bandwidth.measure_bandwidth(cpu, []) is None
    assert bandwidth.measure_bandwidth(cpu, weights) is None
    monkeypatch.setattr(bandwidth, "LEAST_BYTES", 2**20)
    found = bandwidth.measure_bandwidth(cpu, weights)
    assert found is not None and found.linear_gb_s > 0 and 0 < found.share < 2


def test_without_the_native_kernels_nothing_is_claimed() -> None:
    assert bandwidth.measure_bandwidth(REFERENCE, [random_weight(64, 64)]) is None
