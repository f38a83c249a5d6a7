"""Some of the random shapes of `make fuzz-kernels`, and: it would see a kernel that is a little off."""

from __future__ import annotations

import pytest

from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.backend import CpuBackend
from tests.kernels import fuzz

NUM_CASES = 60


@pytest.fixture(autouse=True)
def needs_the_library() -> None:
    if native.native_library() is None:
        pytest.skip(str(native.unavailable_reason()))


def test_random_shapes_agree_with_the_references() -> None:
    assert [wrong for number in range(NUM_CASES) if (wrong := fuzz.run_case(number))] == []


def test_a_product_that_is_off_by_a_thousandth_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CpuBackend.quantized_linear
    monkeypatch.setattr(CpuBackend, "quantized_linear", lambda *args, **kwargs: right(*args, **kwargs) * 1.001)
    reports = [wrong for number in range(NUM_CASES) if (wrong := fuzz.run_case(number))]
    assert reports and all("quantized_linear" in report for report in reports)
