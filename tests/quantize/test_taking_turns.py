"""Two runs with one target: the second is refused, and what appears is of one setting."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.errors import SettingError
from qwartet.models.shapes import gptq_config
from qwartet.quantize.pipeline import QuantizeEvent, quantize_checkpoint
from tests.bench.tiny_shape import TINY
from tests.golden_data import REPOSITORY
from tests.quantize.test_pipeline import CALIBRATION, INT4, Stopped, assert_same_files, fresh, stop_at
from tests.tiny_checkpoint import write_tiny_checkpoint

OTHER = replace(INT4, group_size=64)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("float"))


@pytest.mark.parametrize("config", [INT4, OTHER], ids=["same settings", "other settings"])
@pytest.mark.parametrize("spelling", ["out", "../there/out", "link/out"])
def test_a_second_run_is_refused_while_the_first_one_writes(
    source: Path, tmp_path: Path, config: object, spelling: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "link").symlink_to(tmp_path / "there")
    refusals = []

    def second_run(event: QuantizeEvent) -> None:
        with pytest.raises(SettingError) as caught:
            quantize_checkpoint(source, tmp_path / "there" / spelling, config, CALIBRATION)
        refusals.append(str(caught.value))

    quantize_checkpoint(source, tmp_path / "there" / "out", INT4, CALIBRATION, on_event=second_run)
    assert refusals and all(
        "another process is writing it; wait for it to finish, or choose another name" in text for text in refusals
    )
    assert_same_files(tmp_path / "there" / "out", fresh(tmp_path / "fresh", source=source, config=INT4,
                                                        calibration=CALIBRATION))  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["link", "out"]
    with pytest.raises(SettingError, match="exists"):
        quantize_checkpoint(source, tmp_path / "there" / spelling, config, CALIBRATION)


def test_a_killed_run_leaves_no_lock_and_its_blocks_to_its_own_settings(source: Path, tmp_path: Path) -> None:
    child = f"""
import os, signal
from pathlib import Path
from tests.quantize import test_pipeline as t
kill = lambda event: os.kill(os.getpid(), signal.SIGKILL) if event.layer == 1 else None
t.quantize_checkpoint(Path({str(source)!r}), Path({str(tmp_path)!r}, "out"), t.INT4, t.CALIBRATION, on_event=kill)
"""
    assert subprocess.run([sys.executable, "-c", child], cwd=REPOSITORY).returncode == -signal.SIGKILL
    with pytest.raises(SettingError, match=r"other settings \(group_size 32, not 64\); use those to resume, remove"):
        quantize_checkpoint(source, tmp_path / "out", OTHER, CALIBRATION)
    events = quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)
    assert events[0].is_resumed and not events[-1].is_resumed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": replace(INT4, bits=8)}, r"\(bits 4, not 8\)"),
        (
            {"config": replace(INT4, damp_percent=0.02, desc_act=True)},
            r"damp_percent 0.01, not 0.02, desc_act False, ",
        ),
        ({"calibration": CALIBRATION[1:]}, r"\(another calibration\)"),
        ({"dtype": "bf16"}, r"\(dtype 'torch.float32', not 'torch.bfloat16'\)"),
    ],
)
def test_what_differs_is_named(source: Path, tmp_path: Path, changes: dict, words: str) -> None:
    arguments = {"source": source, "target": tmp_path / "out", "config": INT4, "calibration": CALIBRATION}
    with pytest.raises(Stopped):
        quantize_checkpoint(**arguments, on_event=stop_at(1, "mlp.down"))
    with pytest.raises(SettingError, match=words):
        quantize_checkpoint(**arguments | changes)
    assert all(event.is_resumed == (event.layer == 0) for event in quantize_checkpoint(**arguments))


def test_settings_of_a_run_that_finished_no_block_bind_nobody(source: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, on_event=stop_at(0, "mlp.up"))
    assert not any(event.is_resumed for event in quantize_checkpoint(source, tmp_path / "out", OTHER, CALIBRATION))


def test_a_second_synthesis_is_refused_while_the_first_one_writes(tmp_path: Path) -> None:
    plan, refusals = plan_synthesis(TINY, gptq_config("int4")), []

    def second_run(_count: int) -> None:
        with pytest.raises(SettingError) as caught:
            write_synthesis(plan, tmp_path / "out")
        refusals.append(str(caught.value))

    write_synthesis(plan, tmp_path / "out", on_bytes=second_run)
    assert refusals and all("another process is writing it" in text for text in refusals)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
