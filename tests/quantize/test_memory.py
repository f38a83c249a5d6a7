"""What `plan` says about the memory of quantising, against the peak of a process that does it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.kernels.cpu.library import native_library
from qwartet.models.families import layout_of, load_config
from qwartet.models.shapes import ALL_SHAPES, SHAPES
from qwartet.quantize.memory import QuantizeLoad, device_rows, host_rows, writing_bytes
from tests.golden_data import REPOSITORY

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPE = replace(
    SHAPES["1.8b"], hidden_size=1024, num_layers=2, num_heads=8, intermediate_size=2560, vocab_size=512, num_ranks=300
)
LOAD = QuantizeLoad(num_tokens=12 * 1024, longest=1024)
CHILD = """
import json, sys, threading, time
from pathlib import Path
import torch
from qwartet.quantize.pipeline import QuantizeOptions, quantize_checkpoint
from qwartet.quant_format.config import GptqConfig

def anonymous():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])

def watch():
    while True:
        peaks.append(anonymous())
        time.sleep(0.002)

source, target, spill, options = sys.argv[1:5]
calibration = torch.randint(300, (12, 1024), generator=torch.Generator().manual_seed(0)).tolist()
options = QuantizeOptions(spill=Path(spill) if spill else None, **json.loads(options))
before, peaks = anonymous(), []
threading.Thread(target=watch, daemon=True).start()
quantize_checkpoint(Path(source), Path(target), GptqConfig(4, 128, False, True), calibration, options=options)
print(max(peaks) - before)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("memory") / "float"
    write_synthesis(plan_synthesis(SHAPE, None), directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(("spill", "order"), [(False, False), (True, False), (True, True)])
def test_a_run_takes_what_the_plan_says_and_not_much_less(
    source: Path, tmp_path: Path, spill: bool, order: bool
) -> None:
    config, load = load_config(source), replace(LOAD, is_spilled=spill)
    options = {"act_group_aware": order, "search_scales": order}
    arguments = [str(source), str(tmp_path / "out"), str(tmp_path / "fast") if spill else "", json.dumps(options)]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    taken = int(child.stdout)
    rows = {
        **device_rows(config, load, dtype=torch.float32, device=CPU, order=order),
        **host_rows(config, load, torch.float32),
    }
    assert 0.5 * sum(rows.values()) < taken <= 1.05 * sum(rows.values()), (taken, rows)


def test_more_layers_need_no_more_memory_and_more_calibration_only_where_it_is_kept() -> None:
    config = plan_synthesis(SHAPE, None).config
    deeper = plan_synthesis(replace(SHAPE, num_layers=20), None).config
    longer = replace(LOAD, num_tokens=100 * LOAD.num_tokens)

    def total(config, load) -> int:
        rows = device_rows(config, load, dtype=torch.float32, device=CPU, order=False)
        return sum({**rows, **host_rows(config, load, torch.float32)}.values())

    assert total(config, LOAD) == total(deeper, LOAD)
    assert total(config, longer) - total(config, LOAD) == longer.stored_bytes(config, torch.float32) * 99 // 100
    assert total(config, replace(longer, is_spilled=True)) == total(config, replace(LOAD, is_spilled=True))


def test_the_rows_are_the_sums_of_what_they_name() -> None:
    config = plan_synthesis(SHAPE, None).config
    rows = device_rows(config, LOAD, dtype=torch.bfloat16, device=GPU, order=False)
    hidden, mlp = SHAPE.hidden_size, SHAPE.intermediate_size
    assert rows["weights of a block"] == 2 * (4 * hidden**2 + 3 * hidden * mlp + 2 * hidden)
    assert rows["Hessian"] == 4 * mlp**2
    assert rows["GPTQ solver"] == 4 * rows["Hessian"] + 10 * hidden * mlp, "torch needs four more on a GPU"
    ordered = device_rows(config, LOAD, dtype=torch.bfloat16, device=GPU, order=True)
    assert ordered["GPTQ solver"] - rows["GPTQ solver"] == 2 * rows["Hessian"]
    assert host_rows(config, LOAD, torch.bfloat16) == {
        "activations of the calibration": LOAD.num_tokens * (4 * hidden + 2 * mlp)
    }


def test_the_published_72b_fits_the_memory_that_was_asked_for() -> None:
    """80 GB on one GPU, at 128 examples of 2,048 tokens in bf16."""
    config = plan_synthesis(SHAPES["72b"], None).config
    load = QuantizeLoad(128 * 2048, 2048)
    assert sum(device_rows(config, load, dtype=torch.bfloat16, device=GPU, order=True).values()) < 80e9
    assert writing_bytes(layout_of(config), 41_000_000_000) < 80e9


@pytest.mark.skipif(native_library() is None, reason="the document counts the native solver")
def test_the_table_of_the_document_is_the_plan() -> None:
    text = (REPOSITORY / "docs" / "quantization.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 6
    load = QuantizeLoad(128 * 2048, 2048)
    for name, *quoted in rows:
        config, found = plan_synthesis(ALL_SHAPES[name], None).config, []
        for device, dtype in ((CPU, torch.float32), (GPU, torch.bfloat16)):
            found.append(sum(device_rows(config, load, dtype=dtype, device=device, order=True).values()))
            found.append(sum(host_rows(config, load, dtype).values()))
        assert [f"{size / 2**30:.1f}" for size in found] == quoted, name
