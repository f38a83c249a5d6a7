"""What `qwartet plan` says is what a process takes that loads the model and uses every block of its KV cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwartet.bench.latency import peak_rss_bytes
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.kernels.cpu.library import native_library
from qwartet.models.shapes import Precision, Shape, gptq_config
from qwartet.planning.memory_plan import TOKENIZER_BYTES_PER_RANK
from tests.golden_data import REPOSITORY, real_vocabulary

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native_library() is None, reason="the forecast is exact for the native kernels alone"),
    pytest.mark.skipif(not peak_rss_bytes(), reason="the system does not tell a process its peak"),
]

# The published vocabulary, narrow layers: 350 MB in bf16, 310 in int4; 32 KiB of cache a token and little arithmetic.
SMALL = Shape("small", 512, 16, 4, 512, 152_064, 2048, 2048, 10_000, True, 1024)
CONTEXT, CONCURRENCY = 2048, 8  # 512 MiB of bf16 cache
# Found: 0.938 to 1.004. The plan counts logits of guesses, 8 % of this small model, which random text does not bring.
OF_FORECAST = (0.91, 1.03)


def measure(directory: Path, cache: Path, kind: str) -> dict:
    """The plan and the peak of a process of its own."""
    arguments = [str(directory), str(CONTEXT), str(CONCURRENCY), kind]
    return in_process("-m", "tests.models.memory_child", *arguments, QWARTET_CACHE=str(cache))


def in_process(*arguments: str, **changes: str) -> dict:
    """The JSON that a Python process prints last."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **changes}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def checkpoint(directory: Path, precision: Precision) -> Path:
    write_synthesis(plan_synthesis(SMALL, gptq_config(precision)), directory)
    return directory


def assert_true(found: dict, forecast: str) -> None:
    low, high = OF_FORECAST
    size = found["plan"][forecast]
    assert low * size <= found["peak_bytes"] <= high * size, (found["peak_bytes"] / size, found)


def test_the_peak_of_a_float_checkpoint_is_the_forecast(tmp_path: Path) -> None:
    assert_true(measure(checkpoint(tmp_path / "model", "bf16"), tmp_path / "cache", "auto"), "total_bytes")


def test_the_peaks_of_the_first_and_of_a_later_start_are_the_forecasts(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "model", "int4")
    for kind, forecast in (("auto", "peak_first_start_bytes"), ("int8", "peak_later_start_bytes")):
        found = measure(directory, tmp_path / "cache", kind)
        assert found["plan"]["kept_on_disk_bytes"] > 0
        assert_true(found, forecast)


def test_a_rank_of_the_published_vocabulary_takes_the_bytes_that_are_counted() -> None:
    code = """if True:
        import json, re, sys
        import qwartet.llm
        from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer

        def resident():
            return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])

        before = resident()
        tokenizer = TiktokenTokenizer.load(sys.argv[1])
        print(json.dumps({"bytes": resident() - before, "ranks": tokenizer.vocabulary.num_ranks}))
    """
    found = in_process("-c", code, str(real_vocabulary()))
    assert found["bytes"] / found["ranks"] == pytest.approx(TOKENIZER_BYTES_PER_RANK, rel=0.2)
