"""Every native test runs on each instruction set that this processor has."""

from __future__ import annotations

import pytest

from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.backend import CpuBackend


@pytest.fixture(params=native.supported_isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes `select_backend` choose one instruction set; skips where that library was not built."""
    monkeypatch.setenv(native.ISA_VARIABLE, request.param)
    if native.native_library() is None:
        pytest.skip(str(native.unavailable_reason()))
    return request.param


@pytest.fixture
def cpu(isa: str) -> CpuBackend:
    """The native operations on that instruction set, with exact activations."""
    return CpuBackend(native.library_of(isa))


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch):
    """Sets the number of native threads and puts it back afterwards."""
    library = native.native_library()
    if library is None:
        pytest.skip(str(native.unavailable_reason()))
    before = library.num_threads
    yield library.set_num_threads
    library.set_num_threads(before)
