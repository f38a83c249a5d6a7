"""The share of the memory's speed is a plausible one, and is not claimed where it cannot be known."""

from __future__ import annotations

import pytest

from qwartet.kernels.cpu import bandwidth
from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu import weights as cpu_weights
from tests.kernels.random_weights import random_weight


@pytest.mark.skipif(native.native_library() is None, reason="there is no native library")
def test_a_share_is_measured_for_weights_that_are_large_enough(monkeypatch) -> None:
    weights = [cpu_weights.pack(random_weight(1024, 1024, seed=seed)) for seed in range(3)]
    assert bandwidth.measure_bandwidth(weights) is None
    monkeypatch.setattr(bandwidth, "LEAST_BYTES", 2**20)
    found = bandwidth.measure_bandwidth(weights)
    assert found is not None and found.linear_gb_s > 0 and 0 < found.share < 2


def test_without_weights_or_library_nothing_is_claimed(monkeypatch) -> None:
    assert bandwidth.measure_bandwidth([]) is None
    monkeypatch.setenv(native.ISA_VARIABLE, native.NO_LIBRARY)
    assert bandwidth.measure_bandwidth([]) is None
