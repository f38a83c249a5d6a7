"""What a run may do otherwise: activations on the disk, rounding alone, options, the operations of a GPU."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError, SettingError
from qwartet.kernels.gptq_ops import REFERENCE_OPS
from qwartet.layers.linear import Linear
from qwartet.models.qwen import DecoderLayer
from qwartet.quant_format.packing import unpack_qweight
from qwartet.quantize import block, pipeline
from qwartet.quantize.activations import Activations
from qwartet.quantize.hessian import HessianAccumulator
from qwartet.quantize.pipeline import QuantizeEvent, QuantizeOptions, quantize_checkpoint
from qwartet.quantize.quantizer import fit_group, quantize
from qwartet.quantize.solver import SolverSettings
from tests.golden_data import REPOSITORY
from tests.quantize.test_pipeline import CALIBRATION, INT4, Stopped, assert_same_files, mean_kl, stop_at
from tests.tiny_checkpoint import HIDDEN_SIZE, MLP_WIDTH, NUM_LAYERS, write_tiny_checkpoint


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def int4(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("quantised") / "int4"
    quantize_checkpoint(source, target, INT4, CALIBRATION)
    return target


def test_a_run_killed_within_a_block_leaves_files_of_activations_that_the_next_one_replaces(
    source: Path, int4: Path, tmp_path: Path
) -> None:
    child = f"""
import os, signal, torch
from pathlib import Path
from tests.quantize import test_options as t
torch.set_num_threads(1)
place = (1, "mlp.down, batch 1 of 1")
kill = lambda state: os.kill(os.getpid(), signal.SIGKILL) if (state.layer, state.doing) == place else None
out, options = Path({str(tmp_path)!r}, "out"), t.QuantizeOptions(spill=Path({str(tmp_path)!r}, "fast"))
t.quantize_checkpoint(Path({str(source)!r}), out, t.INT4, t.CALIBRATION, options=options, on_progress=kill)
"""
    assert subprocess.run([sys.executable, "-c", child], cwd=REPOSITORY).returncode == -signal.SIGKILL
    assert list((tmp_path / "fast").rglob("*.bin"))
    events = quantize_checkpoint(
        source, tmp_path / "out", INT4, CALIBRATION, options=QuantizeOptions(spill=tmp_path / "fast")
    )
    assert [event.is_resumed for event in events] == [event.layer == 0 for event in events]
    assert_same_files(tmp_path / "out", int4)
    assert not any((tmp_path / "fast").iterdir())


@pytest.mark.parametrize(("value", "what"), [(torch.nan, "NaN or infinite"), (1e25, "as large as 1e\\+25")])
def test_activations_that_are_not_finite_are_named_with_their_linear_example_and_token(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, what: str
) -> None:
    monkeypatch.setattr(block, "BATCH_TOKENS", 100)  # examples 3 and 4 have 90 and 1 tokens and form a batch
    real_inputs = block._inputs

    def inputs(layer: DecoderLayer, step: int, run: block.BlockRun, number: int) -> torch.Tensor:
        found = real_inputs(layer, step, run, number)
        if step == 3 and number == 1:
            found[90, 7] = value
        return found

    monkeypatch.setattr(block, "_inputs", inputs)
    words = rf"transformer.h.0.mlp.c_proj: its inputs are {what} in calibration example 4 \(the first is 0\), token 0"
    with pytest.raises(CheckpointError, match=words):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)


def test_every_linear_is_computed_once_for_each_token(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = Linear.forward

    def forward(linear: Linear, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(len(x))
        return real(linear, x, *rest)

    monkeypatch.setattr(Linear, "forward", forward)
    quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)
    num_tokens = sum(map(len, CALIBRATION))
    assert sum(calls) == num_tokens * (5 * NUM_LAYERS - 1), "the last linear of the last block has no reader"


def test_activations_on_the_disk_change_no_bit_and_leave_nothing(source: Path, int4: Path, tmp_path: Path) -> None:
    (tmp_path / "fast").mkdir()
    seen: set[str] = set()

    def look(_event: QuantizeEvent) -> None:
        seen.update(path.name for path in (tmp_path / "fast").rglob("*.bin"))

    options = QuantizeOptions(spill=tmp_path / "fast")
    with pytest.raises(Stopped):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, options=options, on_event=stop_at(1, "mlp.up"))
    assert not any((tmp_path / "fast").iterdir())
    quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, options=options, on_event=look)
    assert {"hidden-00000.bin", "inputs-00000.bin"} <= seen
    assert not any((tmp_path / "fast").iterdir())
    assert_same_files(tmp_path / "out", int4)


def test_a_disk_that_fills_up_with_activations_ends_the_run_and_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = Path.open

    def opened(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path.name.startswith("inputs-") and mode == "wb":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_open(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(CheckpointError, match=r"inputs-00000.bin: cannot be written \(.*No space left on device"):
        quantize_checkpoint(
            source, tmp_path / "out", INT4, CALIBRATION, options=QuantizeOptions(spill=tmp_path / "fast")
        )
    assert not any((tmp_path / "fast").iterdir()) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("starved_below", [0.0, 2.0, 1e6])
def test_starved_linears_are_rounded_to_nearest_and_say_so(source: Path, tmp_path: Path, starved_below: float) -> None:
    options = QuantizeOptions(starved_below=starved_below)
    events = quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, options=options)
    ratio = sum(map(len, CALIBRATION)) / HIDDEN_SIZE
    assert 2.0 < ratio < 1e6
    assert {event.method for event in events} == {"rtn" if starved_below > ratio else "gptq"}
    if starved_below > ratio:
        weight = Checkpoint(source).read("transformer.h.0.mlp.w1.weight").float().t()
        groups = [quantize(group, *fit_group(group, bits=4, sym=True), bits=4) for group in weight.split(32)]
        written = load_file(tmp_path / "out/model.safetensors")["transformer.h.0.mlp.w1.qweight"]
        assert torch.equal(unpack_qweight(written, 4).float(), torch.cat(groups))


def test_few_tokens_per_input_are_damped_more_if_wanted(source: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(auto_damp=True)
    events = quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, options=options)
    num_tokens, widths = sum(map(len, CALIBRATION)), {"mlp.down": MLP_WIDTH}
    for event in events:
        of_few = 0.2 * widths.get(event.linear, HIDDEN_SIZE) / num_tokens
        assert event.damp_percent == pytest.approx(of_few) and of_few > INT4.damp_percent
    quantize_checkpoint(source, tmp_path / "few", INT4, CALIBRATION[3:6])  # 151 tokens of 128 inputs
    quantize_checkpoint(source, tmp_path / "few damped", INT4, CALIBRATION[3:6], options=options)
    assert mean_kl(tmp_path / "few damped", source) < mean_kl(tmp_path / "few", source)


@pytest.mark.parametrize(("num_tokens", "damping"), [(0, 0.01), (1, 0.5), (100, 0.04), (1000, 0.01)])
def test_automatic_damping_is_bounded(num_tokens: int, damping: float) -> None:
    rotary: Any = None
    run = block.BlockRun([], Activations(), rotary, SolverSettings(4, 32, True), REFERENCE_OPS)
    seen = HessianAccumulator(20)
    seen.add(torch.randn(num_tokens, 20))
    assert run.solver_settings(seen).damp_percent == 0.01
    assert replace(run, auto_damp=True).solver_settings(seen).damp_percent == pytest.approx(damping)


@pytest.mark.parametrize("options", [{"act_group_aware": True}, {"search_scales": True}], ids=str)
def test_options_that_cost_nothing_at_inference_keep_the_layout(
    source: Path, int4: Path, tmp_path: Path, options: dict[str, bool]
) -> None:
    quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, options=QuantizeOptions(**options))
    ours, plain = (load_file(directory / "model.safetensors") for directory in (tmp_path / "out", int4))
    assert {name: (t.dtype, t.shape) for name, t in ours.items()} == {
        name: (t.dtype, t.shape) for name, t in plain.items()
    }
    assert all(torch.equal(ours[name], plain[name]) for name in plain if name.endswith(("g_idx", "qzeros")))
    assert (tmp_path / "out/quantize_config.json").read_bytes() == (int4 / "quantize_config.json").read_bytes()
    assert mean_kl(tmp_path / "out", source) < 0.1
    with pytest.raises(SettingError, match="finished blocks of a run with other settings"):
        with pytest.raises(Stopped):
            quantize_checkpoint(source, tmp_path / "twice", INT4, CALIBRATION, on_event=stop_at(1, "mlp.up"))
        quantize_checkpoint(source, tmp_path / "twice", INT4, CALIBRATION, options=QuantizeOptions(**options))


PLACES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", PLACES)
@pytest.mark.parametrize("options", [{}, {"act_group_aware": True, "search_scales": True}], ids=str)
def test_the_operations_of_a_gpu_give_the_same_quality_and_resume_to_the_same_bits(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, options: dict[str, bool]
) -> None:
    chosen = QuantizeOptions(**options, spill=tmp_path / "fast")
    native = quantize_checkpoint(source, tmp_path / "native", INT4, CALIBRATION, options=chosen)
    monkeypatch.setattr(pipeline, "select_gptq_ops", lambda _device: REFERENCE_OPS)
    run = partial(quantize_checkpoint, source, options=chosen, device=device)
    events = run(tmp_path / "torch", INT4, CALIBRATION)
    assert [event.loss for event in events] == pytest.approx([event.loss for event in native], rel=0.03)
    assert mean_kl(tmp_path / "torch", source) < 0.1
    with pytest.raises(Stopped):
        run(tmp_path / "again", INT4, CALIBRATION, on_event=stop_at(1, "mlp.up"))
    run(tmp_path / "again", INT4, CALIBRATION)
    assert_same_files(tmp_path / "torch", tmp_path / "again")
