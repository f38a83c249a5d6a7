"""kernels_lab/gpu without a GPU: the kernels in Triton's interpreter and compiler, and what the scripts say."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from qwartet.quant_format.weight import QuantizedWeight

triton = pytest.importorskip(
    "triton", reason='the GPU kernels need Triton, with or without a GPU: pip install "triton>=3.7"'
)

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120


def version(module: object) -> tuple[int, ...]:
    return tuple(int(part) for part in module.__version__.split(".")[:2])


needs_interpreter = pytest.mark.skipif(
    version(triton) < (3, 7) and version(numpy) >= (2, 4),
    reason='before 3.7 Triton\'s interpreter fails with NumPy 2.4: pip install "triton>=3.7" or "numpy<2.4"',
)

# Moves the words of every tile by one, as a wrong index would. A comparison must detect it.
DAMAGE = """
import dataclasses
import torch
from kernels_lab.gpu import check
generator = torch.Generator().manual_seed(0)
shape = check.Shape("damaged", 256, 72, False)
weight = check.random_weight(shape, generator)
x = check.random_inputs(check.Case(shape, 1, 1, "normal"), generator)
variant = check.VARIANTS["tiles_dot"]
prepared = variant.prepare(weight)
damaged = dataclasses.replace(prepared, words=prepared.words.roll(1, dims=-1))
for words in (prepared, damaged):
    print(check.compare(variant, words, x, check.reference(x, weight), 1, torch.float32)[1] or "right")
"""


def run_python(*arguments: str, interprets: bool) -> subprocess.CompletedProcess[str]:
    """A child process, because Triton reads TRITON_INTERPRET when it is imported."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    if interprets:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=TIMEOUT_S, check=False
    )


@pytest.fixture(scope="module")
def report() -> list[str]:
    """What the check of all variants prints, a line per comparison."""
    result = run_python("-m", "kernels_lab.gpu.check", interprets=True)
    assert "Traceback" not in result.stderr, result.stderr
    return result.stdout.splitlines()[1:]


@needs_interpreter
@pytest.mark.parametrize("variant", ["file_fma", "tiles_fma", "tiles_dot"])
def test_a_kernel_is_right_in_the_interpreter(variant: str, report: list[str]) -> None:
    lines = [line for line in report if line.startswith(variant)]
    assert lines
    assert not [line for line in lines if not line.endswith("right")]


@needs_interpreter
def test_a_damaged_weight_is_noticed() -> None:
    result = run_python("-c", DAMAGE, interprets=True)
    assert result.stdout.splitlines() == ["right", "the error is above 0.0001"], result.stderr


def test_the_kernels_compile_for_hopper_without_spills() -> None:
    result = run_python("-m", "kernels_lab.gpu.check", "--compile", interprets=False)
    usages = [line for line in result.stdout.splitlines() if "REG:" in line]
    assert len(usages) == 3, result.stderr
    assert not [line for line in usages if "STACK:0" not in line or "LOCAL:0" not in line]


def small_weight() -> QuantizedWeight:
    """K 128, N 8."""
    codes = torch.randint(0, 16, (128, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    zeros = torch.full((1, 8), 8, dtype=torch.uint8)
    return QuantizedWeight.from_codes(codes, torch.ones(1, 8), zeros, bits=4, group_size=128, sym=True)


def test_a_weight_that_the_kernels_do_not_compute_is_refused() -> None:
    from kernels_lab.gpu.int4_gemv import prepare_file, prepare_tiles

    weight = small_weight()
    act_order = replace(weight, g_idx=torch.zeros(128, dtype=torch.int32))
    asymmetric = replace(weight, qzeros=weight.qzeros + 1)
    for prepare in (prepare_file, prepare_tiles):
        with pytest.raises(ValueError, match="without g_idx"):
            prepare(act_order)
        with pytest.raises(ValueError, match="every zero is 8"):
            prepare(asymmetric)


def test_a_call_that_a_kernel_does_not_take_is_refused() -> None:
    from kernels_lab.gpu.int4_gemv import Workspace, file_fma, prepare_file, tiles_dot

    weight = prepare_file(small_weight())
    x = torch.zeros(2, 128, dtype=torch.bfloat16)
    workspace = Workspace.allocate(2, 8, 1, "cpu")
    with pytest.raises(ValueError, match="laid out as 'file'"):
        tiles_dot(x, weight, workspace)
    with pytest.raises(ValueError, match="x has 2 rows; this kernel takes 1 to 1"):
        file_fma(x, weight, workspace)
    with pytest.raises(ValueError, match=r"contiguous bfloat16 \[M, 128\]"):
        file_fma(x.float(), weight, workspace)
    with pytest.raises(ValueError, match="num_splits is 17"):
        Workspace.allocate(1, 8, 17, "cpu")


def test_without_a_gpu_the_benchmark_says_so_and_exits_with_2() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    command = [str(REPOSITORY / "bench" / "gpu" / "run.sh")]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, cwd="/", check=False
    )
    assert result.returncode == 2
    assert "no GPU that torch can use" in result.stderr
