"""What a run needs is checked before the work: target, files, disk, memory, with the figures."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError, OutOfMemoryError, SettingError, VocabularyError
from qwartet.models.config import ModelConfig
from qwartet.models.families import layout_of, load_config
from qwartet.quant_format.config import GptqConfig
from qwartet.quantize import requirements
from qwartet.quantize.memory import QuantizeLoad, device_rows, host_rows
from qwartet.quantize.pipeline import QuantizeOptions, quantize_checkpoint
from qwartet.quantize.requirements import check_disk_space, check_memory, check_target
from tests.quantize.test_pipeline import CALIBRATION, INT4, Stopped, stop_at
from tests.tiny_checkpoint import write_tiny_checkpoint

FP32, CPU = torch.float32, torch.device("cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "source")


def refusal(kind: type[Exception], source: Path, target: Path, config: GptqConfig = INT4) -> str:
    """The error of a run that must end before its first linear and leave nothing behind."""
    before = sorted(target.parent.iterdir()) if target.parent.is_dir() else None
    with pytest.raises(kind) as caught:
        quantize_checkpoint(source, target, config, CALIBRATION, on_event=pytest.fail, on_progress=pytest.fail)
    assert before is None or sorted(target.parent.iterdir()) == before
    return str(caught.value)


def test_a_target_that_exists_or_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(SettingError, match="exists; choose another name, or remove it"):
            check_target(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"out: cannot be written \(.*file is not a directory\); choose another"):
        check_target(tmp_path / "file" / "deep" / "out")
    check_target(tmp_path / "new" / "deep" / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CheckpointError, match=rf"cannot be written \({tmp_path} is not writable\)"):
        check_target(tmp_path / "new" / "out")


def test_a_relative_target_is_looked_up_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_target(Path("out"))
    (tmp_path / "out").mkdir()
    with pytest.raises(SettingError, match="out exists"):
        check_target(Path("out"))


def test_the_disk_has_to_hold_the_result_and_its_blocks(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_checkpoint(source, tmp_path / "done", INT4, CALIBRATION)
    written = Checkpoint(tmp_path / "done")
    result = written.nbytes
    blocks = sum(written.info(name).nbytes for name in written if ".h." in name)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=result + blocks - 1))
    assert "of disk space and 0.0 GiB are free (the result takes" in refusal(SettingError, source, tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=result + blocks))
    quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)


def test_blocks_that_are_finished_need_no_more_space(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION, on_event=stop_at(1, "mlp.down"))
    (finished,) = (tmp_path / "out.partial").glob("block-*")
    layout, work = layout_of(load_config(source)), tmp_path / "out.partial"
    usage = shutil.disk_usage(tmp_path)

    def smallest(work: Path) -> int:
        """The least free space with which the check passes."""
        low, high = 0, 2**30
        while low < high:
            middle = (low + high) // 2
            monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=middle))  # noqa: B023
            try:
                check_disk_space(tmp_path / "out", work, layout, INT4)
                high = middle
            except SettingError:
                low = middle + 1
        return low

    assert smallest(tmp_path / "none") - smallest(work) >= finished.stat().st_size


def test_the_figures_of_the_disk_are_in_gib(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwartet.bench.synth import plan_synthesis
    from qwartet.models.shapes import SHAPES

    layout = layout_of(plan_synthesis(SHAPES["72b"], None).config)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 * 2**30))
    with pytest.raises(SettingError) as caught:
        check_disk_space(tmp_path / "out", tmp_path / "work", layout, GptqConfig(4, 128, False, True))
    sizes = "out needs 72.2 GiB of disk space and 5.0 GiB are free (the result takes 38.4 GiB, its blocks 33.8 GiB more"
    assert sizes in str(caught.value)


LOAD = QuantizeLoad.of_examples(CALIBRATION, is_spilled=False)


def needs(config: ModelConfig, load: QuantizeLoad = LOAD) -> tuple[int, int]:
    """Bytes of a block, and of the activations of the calibration."""
    block = device_rows(config, load, dtype=FP32, device=CPU, order=False)
    return sum(block.values()), sum(host_rows(config, load, FP32).values())


def test_a_block_that_does_not_fit_the_memory_is_refused_with_both_figures(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(source)
    needed = sum(needs(config))
    monkeypatch.setattr(requirements, "available_bytes", lambda place: needed - 1)
    text = refusal(OutOfMemoryError, source, tmp_path / "out")
    assert "quantising one block needs 0.0 GiB of memory and 0.0 GiB are free on cpu (activations of the" in text
    assert "keep activations on a disk (--spill), lower --num-samples, or use a machine with more" in text
    monkeypatch.setattr(requirements, "available_bytes", lambda place: needed)
    check_memory(source, config, LOAD, dtype=FP32, device=CPU)
    spilled = replace(LOAD, is_spilled=True)
    monkeypatch.setattr(requirements, "available_bytes", lambda place: needs(config)[0])
    check_memory(source, config, spilled, dtype=FP32, device=CPU)
    with pytest.raises(OutOfMemoryError):
        check_memory(source, config, LOAD, dtype=FP32, device=CPU)
    monkeypatch.setattr(requirements, "available_bytes", lambda place: needs(config)[0] - 1)
    with pytest.raises(OutOfMemoryError, match="free some memory, lower --num-samples"):
        check_memory(source, config, spilled, dtype=FP32, device=CPU)


def test_on_a_gpu_the_block_and_the_activations_are_in_different_memories(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, gpu = load_config(source), torch.device("cuda")
    block = sum(device_rows(config, LOAD, dtype=FP32, device=gpu, order=False).values())
    sizes = {"cpu": needs(config)[1], "cuda": block}
    monkeypatch.setattr(requirements, "available_bytes", lambda place: sizes[place.type])
    check_memory(source, config, LOAD, dtype=FP32, device=gpu)
    for place in ("cpu", "cuda"):
        sizes[place] -= 1
        with pytest.raises(OutOfMemoryError, match=f"are free on {place}"):
            check_memory(source, config, LOAD, dtype=FP32, device=gpu)
        sizes[place] += 1


def test_activations_on_the_disk_of_the_target_need_room_beside_the_result(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(load_config(source))
    usage = shutil.disk_usage(tmp_path)
    result, spill = (tmp_path / "out", tmp_path / "work", layout, INT4), tmp_path / "fast"

    def passes(free: int, spilled: int) -> bool:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
        try:
            check_disk_space(*result, {spill: spilled} if spilled else {})
        except SettingError as error:
            assert not spilled or "of disk space for activations" in str(error)
            return False
        return True

    needed = next(free for free in range(0, 2**22, 4096) if passes(free, 0))
    assert passes(needed + 100_000, 100_000) and not passes(needed - 4096 + 99_999, 100_000)


def test_a_directory_for_activations_that_cannot_be_written_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        quantize_checkpoint(
            source,
            tmp_path / "out",
            INT4,
            CALIBRATION,
            options=QuantizeOptions(spill=tmp_path / "file" / "deep"),
            on_event=pytest.fail,
        )
    assert not (tmp_path / "out.partial").exists()


def test_a_broken_vocabulary_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "qwen.tiktoken").write_text("no vocabulary")
    assert "qwen.tiktoken" in refusal(VocabularyError, source, tmp_path / "out")


def test_a_source_without_a_vocabulary_can_be_quantised_on_ids(source: Path, tmp_path: Path) -> None:
    (source / "qwen.tiktoken").unlink()
    assert quantize_checkpoint(source, tmp_path / "out", INT4, CALIBRATION)


@pytest.mark.parametrize("name", ["qwen.tiktoken", "generation_config.json", "LICENSE"])
def test_a_file_to_copy_that_cannot_be_read_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (source / "LICENSE").touch()
    real_open = Path.open

    def opened(path: Path, *rest: Any, **named: Any) -> Any:
        if path == source / name:
            raise PermissionError(13, "Permission denied")
        return real_open(path, *rest, **named)

    monkeypatch.setattr(Path, "open", opened)
    assert f"{name}: cannot be read (Permission denied); check its permissions" in refusal(
        CheckpointError, source, tmp_path / "out"
    )


def test_a_matrix_that_cannot_be_packed_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    config = load_config(source)
    layout = layout_of(config)
    odd = tuple(
        replace(module, shape=(12, 20), parts=((module.disk_name, 12),)) if module.name == "layers.1.mlp.up" else module
        for module in layout
    )
    narrow = replace(layout, modules=odd)
    with pytest.raises(CheckpointError, match=r"transformer.h.1.mlp.w1: a 12 x 20 matrix cannot be packed: at 4 bits"):
        requirements.check_sizes(source, narrow, INT4)
    requirements.check_sizes(source, layout, INT4)
