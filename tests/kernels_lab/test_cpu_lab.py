"""The rungs of the CPU lab are correct: its own check, against numpy in fp64."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from qwartet.kernels.cpu.library import cpu_features


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the lab compiles its rungs with g++")
@pytest.mark.skipif(not {"avx2", "fma", "f16c"} <= cpu_features(), reason="the rungs are written for AVX2 and AVX-512")
def test_every_rung_gives_the_product() -> None:
    command = [sys.executable, "-m", "kernels_lab.cpu.bench", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("right") > 15 and "WRONG" not in result.stdout
