"""A conversion appears complete or not at all, and takes the memory of one tensor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwartet import files
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.checkpoint.safetensors_file import read_tensor_infos
from qwartet.checkpoint.stream_writer import NewTensor, stream_shards
from qwartet.convert.to_qwen1 import convert_to_qwen1
from qwartet.convert.to_qwen2 import convert_to_qwen2
from qwartet.errors import CheckpointError, SettingError
from qwartet.models.shapes import Shape, gptq_config
from tests.golden_data import REPOSITORY
from tests.models.broken import edit_tensors
from tests.tiny_checkpoint import Copy

MIB = 2**20


def in_a_fork(run: Callable[[], Any]) -> int:
    """The exit status of a copy of this process that runs it."""
    child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(*_bytes: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_leaves_no_target_and_the_next_one_removes_its_rest(pristine, tmp_path: Path) -> None:
    source, target = pristine(), tmp_path / "converted"
    assert in_a_fork(lambda: convert_to_qwen2(source, target, on_bytes=kill)) == -signal.SIGKILL
    assert not target.exists() and list(tmp_path.glob(".converted.unfinished/*"))
    convert_to_qwen2(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]
    assert in_a_fork(lambda: convert_to_qwen1(target, tmp_path / "back", on_bytes=kill)) == -signal.SIGKILL
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_run_that_is_interrupted_leaves_nothing(pristine, tmp_path: Path, error: Any) -> None:
    def fail(*_bytes: int) -> None:
        raise error

    for convert in (convert_to_qwen2, convert_to_qwen1):
        with pytest.raises((KeyboardInterrupt, CheckpointError)) as caught:
            convert(pristine() if convert is convert_to_qwen2 else tmp_path / "a", tmp_path / "b", on_bytes=fail)
        assert "cannot be written" in str(caught.value) or caught.type is KeyboardInterrupt
        assert not (tmp_path / "b").exists() and not list(tmp_path.glob(".b*"))
        if convert is convert_to_qwen2:
            convert(pristine(), tmp_path / "a")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_target_that_exists_is_refused_and_stays(pristine, tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "converted")
    with pytest.raises(SettingError, match="exists; choose another name, or remove it"):
        convert_to_qwen2(pristine(), tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]


def test_two_runs_for_one_target_do_not_mix(pristine, tmp_path: Path) -> None:
    def again(*_bytes: int) -> None:
        with pytest.raises(SettingError, match="another process is writing it"):
            convert_to_qwen2(pristine(), tmp_path / "converted")

    convert_to_qwen2(pristine(), tmp_path / "converted", on_bytes=again)
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]


def test_too_little_disk_space_is_found_before_anything_is_written(
    pristine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(SettingError, match=r"needs 0\.0 GB, but only 0\.0 GB are free there; free some space"):
        convert_to_qwen2(pristine(), tmp_path / "converted")
    assert not list(tmp_path.iterdir())


def test_a_fault_in_the_middle_of_the_source_leaves_nothing(checkpoint: Copy, tmp_path: Path) -> None:
    directory = checkpoint(bits=4)

    def mix(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.1.mlp.c_proj.qzeros"][0, 0] = 0x12345678

    edit_tensors(directory / "model.safetensors", mix)
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.c_proj\.qzeros: sym is true, but the zeros are not all"):
        convert_to_qwen2(directory, tmp_path / "converted")
    assert not (tmp_path / "converted").exists() and not list(tmp_path.glob(".converted*"))


def test_tensors_begin_where_a_reader_that_maps_them_needs_it(tmp_path: Path) -> None:
    values = {"half": torch.ones(3).half(), "word": torch.ones(2, dtype=torch.int32), "float": torch.ones(1)}
    names = {"half": "F16", "word": "I32", "float": "F32"}
    tensors = [NewTensor(name, names[name], tuple(v.shape), lambda v=v: v) for name, v in values.items()]
    assert stream_shards(tmp_path, tensors) == ["model.safetensors"]
    for info in read_tensor_infos(tmp_path / "model.safetensors").values():
        assert info.begin % values[info.name].element_size() == 0


CHILD = """
import json, resource, sys
from pathlib import Path
import transformers, safetensors.torch, torch
from qwartet.convert.to_qwen1 import convert_to_qwen1
from qwartet.convert.to_qwen2 import convert_to_qwen2
import numpy

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
source, ranks, one, other, small = sys.argv[1:]
convert_to_qwen2(Path(small), Path(small + "-2"))
before = peak()
convert_to_qwen2(Path(source), Path(one), ranks=int(ranks), max_shard_bytes=64_000_000)
first = peak()
convert_to_qwen1(Path(one), Path(other), max_shard_bytes=64_000_000)
print(first - before, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "ranks"), [("bf16", 1), ("int4", 2)])
def test_the_peak_of_memory_is_that_of_a_few_tensors(pristine, tmp_path: Path, precision: Any, ranks: int) -> None:
    layers = 12 if precision == "bf16" else 40
    shape = Shape("wide", 1024, layers, 8, 2816 - 128, 2048, 2048, 2048, 10_000, False, 1024)
    source = tmp_path / "source"
    write_synthesis(plan_synthesis(shape, gptq_config(precision)), source)
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    largest = max(info.nbytes for file in source.glob("*.safetensors") for info in read_tensor_infos(file).values())
    small = tmp_path / "small"
    shutil.copytree(pristine(), small)
    arguments = [str(source), str(ranks), str(tmp_path / "one"), str(tmp_path / "other"), str(small)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, *arguments], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    peaks = list(map(int, ended.stdout.split()))
    assert size > 250 * MIB and all(peak < 6 * largest + 24 * MIB for peak in peaks), (peaks, largest, size)
