"""Every calibration batch and every linear moves the bar, and a resumed run counts only what is left."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from qwartet.quantize import block
from qwartet.quantize.pipeline import quantize_checkpoint
from qwartet.quantize.progress import QuantizeProgress
from tests.quantize.test_pipeline import CALIBRATION, INT4, Stopped, stop_at
from tests.tiny_checkpoint import NUM_LAYERS, write_tiny_checkpoint

NUM_BATCHES = 5


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(block, "BATCH_TOKENS", 100)
    return write_tiny_checkpoint(tmp_path / "source")


def states_of(source: Path, target: Path) -> list[QuantizeProgress]:
    states: list[QuantizeProgress] = []
    quantize_checkpoint(source, target, INT4, CALIBRATION, on_progress=states.append)
    return states


def test_each_batch_and_each_linear_is_a_step_and_all_steps_make_the_whole(source: Path, tmp_path: Path) -> None:
    states = states_of(source, tmp_path / "out")
    done = [state.work_done for state in states]
    assert done == sorted(done) and done[0] > 0 and done[-1] == states[-1].work_total
    assert len({state.work_total for state in states}) == 1
    assert {state.num_layers for state in states} == {NUM_LAYERS}
    steps = [state.doing for state in states if state.layer == 0]
    batches = [f"batch {number + 1} of {NUM_BATCHES}" for number in range(NUM_BATCHES)]
    assert steps[:6] == [*(f"attention.qkv, {batch}" for batch in batches), "attention.qkv quantised"]
    assert steps.count("mlp.up, batch 1 of 5") == 1 and "mlp.gate, batch 1 of 5" not in steps
    assert steps[-6:] == ["done", *(f"passing on, {batch}" for batch in batches)]
    assert [state.layer for state in states if state.is_block_done] == list(range(NUM_LAYERS))
    assert states[-1].doing == "writing the checkpoint"


def test_a_large_linear_is_more_work_than_a_small_one(source: Path, tmp_path: Path) -> None:
    states = states_of(source, tmp_path / "out")
    work = {state.doing: state.work_done - before.work_done for before, state in pairwise(states) if state.layer == 0}
    assert work["attention.qkv quantised"] > work["attention.output quantised"] > 0


def test_blocks_of_an_earlier_run_are_neither_done_nor_left(source: Path, tmp_path: Path) -> None:
    straight = states_of(source, tmp_path / "straight")
    with pytest.raises(Stopped):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, on_event=stop_at(1, "mlp.down"))
    states = states_of(source, tmp_path / "out")
    assert (states[0].is_resumed, states[0].is_block_done, states[0].work_done) == (True, True, 0)
    assert states[-1].work_done == states[-1].work_total < straight[-1].work_total


def test_what_the_callback_raises_stops_the_run(source: Path, tmp_path: Path) -> None:
    def stop(_state: QuantizeProgress) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, on_progress=stop)
