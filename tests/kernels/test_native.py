"""Finding and loading the native library: which instruction set, what when it is not there, and that threads and forks
do it no harm.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from qwartet.errors import SettingError
from qwartet.kernels.cpu import build as native_build
from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.backend import CpuBackend
from tests.kernels.random_weights import random_bf16, random_weight

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch):
    """Forgets which library was loaded, before and after."""
    native._load.cache_clear()
    yield monkeypatch
    native._load.cache_clear()


def test_the_best_instruction_set_of_the_processor_is_taken() -> None:
    library = native.native_library()
    if library is None:
        pytest.skip(str(native.unavailable_reason()))
    assert library.isa == native.supported_isas()[0]
    assert native.unavailable_reason() is None


def test_the_variable_forces_a_lower_instruction_set(isa) -> None:
    assert native.native_library().isa == isa
    assert native.native_library().functions.qw_isa().decode() == isa


@pytest.mark.parametrize("wanted", ["avx1024", "amx", "AVX2"])
def test_an_instruction_set_that_is_not_there_is_refused_by_name(monkeypatch, wanted) -> None:
    monkeypatch.setenv(native.ISA_VARIABLE, wanted)
    with pytest.raises(SettingError, match=f"{native.ISA_VARIABLE} is '{wanted}'; on this CPU use .*scalar, none"):
        native.native_library()


def test_a_processor_without_the_features_never_gets_the_library(fresh) -> None:
    fresh.setattr(native, "cpu_features", lambda: frozenset({"avx2", "fma", "f16c", "avx512f"}))
    assert native.supported_isas() == ["avx2", "scalar"]
    fresh.setattr(native, "cpu_features", frozenset)
    assert native.supported_isas() == ["scalar"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "was not built"), (b"", "cannot be loaded"), (b"\x7fELF" + b"\0" * 200, "cannot be loaded")],
)
def test_a_missing_or_foreign_file_is_a_reason_and_no_crash(fresh, tmp_path, content, reason) -> None:
    path = tmp_path / "libqwartet_cpu_scalar.so"
    if content is not None:
        path.write_bytes(content)
    fresh.setattr(native, "library_path", lambda isa: path)
    assert native.native_library() is None
    assert reason in native.unavailable_reason()


def test_a_library_of_other_sources_is_not_used(fresh) -> None:
    if native.native_library() is None:
        pytest.skip(str(native.unavailable_reason()))
    native._load.cache_clear()
    fresh.setattr(native, "source_hash", lambda: "0123456789abcdef")
    assert native.native_library() is None
    assert "built from different sources" in native.unavailable_reason()


def test_without_a_compiler_the_build_says_so(monkeypatch) -> None:
    monkeypatch.setattr(native_build, "compiler", lambda: None)
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler found; install one"):
        native_build.build()


def test_a_compiler_that_fails_leaves_nothing_behind(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(native_build, "compiler", lambda: "/bin/false")
    with pytest.raises(RuntimeError, match="failed for"):
        native_build.build(directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, -1, 257])
def test_a_senseless_number_of_threads_is_refused(threads, count) -> None:
    with pytest.raises(SettingError, match="between 1 and 256"):
        threads(count)


def test_calls_from_several_python_threads_take_turns(threads) -> None:
    threads(2)
    cpu = CpuBackend(native.native_library())
    weights = [cpu.prepare(random_weight(256, 64 * n, seed=n)) for n in range(1, 5)]
    x = random_bf16(40, 256)
    expected = [cpu.quantized_linear(x, weight) for weight in weights]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = list(pool.map(lambda weight: cpu.quantized_linear(x, weight), weights))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_forked_child_computes_with_threads_of_its_own(threads) -> None:
    threads(3)
    cpu = CpuBackend(native.native_library())
    weight, x = cpu.prepare(random_weight(256, 640)), random_bf16(40, 256)
    expected = cpu.quantized_linear(x, weight)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(cpu.quantized_linear(x, weight), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(cpu.quantized_linear(x, weight), expected)


@pytest.mark.parametrize("variable", ["1", "8"])
def test_the_threads_of_openmp_change_no_bit(variable) -> None:
    code = (
        "from tests.kernels.random_weights import random_bf16, random_weight\n"
        "from qwartet.kernels.cpu.backend import CpuBackend\n"
        "from qwartet.kernels.cpu.library import native_library\n"
        "cpu = CpuBackend(native_library())\n"
        "y = cpu.quantized_linear(random_bf16(20, 256), cpu.prepare(random_weight(256, 320)))\n"
        "import hashlib; print(hashlib.sha256(y.view(dtype=__import__('torch').uint8).numpy().tobytes()).hexdigest())"
    )
    if native.native_library() is None:
        pytest.skip(str(native.unavailable_reason()))
    environment = {**os.environ, "OMP_NUM_THREADS": variable}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    cpu = CpuBackend(native.native_library())
    here = cpu.quantized_linear(random_bf16(20, 256), cpu.prepare(random_weight(256, 320)))
    import hashlib

    assert result.stdout.strip() == hashlib.sha256(here.view(torch.uint8).numpy().tobytes()).hexdigest()
