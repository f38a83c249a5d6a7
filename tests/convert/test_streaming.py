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
from safetensors.torch import load_file, save_file

from qwartet import files
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.checkpoint.safetensors_file import read_tensor_infos
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.stream_writer import NewTensor, stream_shards
from qwartet.convert.rewrite import PART_BYTES
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


def test_a_tensor_may_come_in_parts(tmp_path: Path) -> None:
    value = torch.randn(10, 3)
    written: list[int] = []
    parts = NewTensor("a", "F32", (10, 3), lambda: iter(value.split(4)))
    stream_shards(tmp_path, [parts], on_bytes=lambda count, total: written.append(count))
    assert torch.equal(load_file(tmp_path / "model.safetensors")["a"], value)
    assert written == [48, 48, 24]
    (tmp_path / "wrong").mkdir()
    for wrong in (value[:9], value[:, :2]):
        with pytest.raises(AssertionError, match="'a'"):
            stream_shards(tmp_path / "wrong", [NewTensor("a", "F32", (10, 3), lambda wrong=wrong: iter([wrong]))])
        (tmp_path / "wrong" / "model.safetensors").unlink(missing_ok=True)


@pytest.mark.parametrize("mode", ["mmap", "pread"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_rows_of_a_tensor_are_read(tmp_path: Path, mode: Any, dtype: torch.dtype) -> None:
    value = {"first": torch.ones(3), "a": (100 * torch.randn(10, 3, 2)).to(dtype)}
    save_file(value, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path, mode)
    for part in (slice(0, 10), slice(3, 7), slice(9, 20), slice(4, 4), slice(None)):
        assert torch.equal(checkpoint.read("a", (part,)), value["a"][part])
        assert torch.equal(checkpoint.read("a", (part, slice(1, 2))), value["a"][part, 1:2])
    os.truncate(tmp_path / "model.safetensors", 100)
    with pytest.raises(CheckpointError, match="changed from"):
        checkpoint.read("a", (slice(0, 10),))


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


def peaks_of(source: Path, small: Path, ranks: int, work: Path) -> list[int]:
    """By how much converting there and back raised the peak of a process that had converted something small before."""
    arguments = [str(source), str(ranks), str(work / "one"), str(work / "other"), str(small)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, *arguments], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    return list(map(int, ended.stdout.split()))


@pytest.fixture
def small(pristine, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine(), tmp_path / "small"))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "ranks"), [("bf16", 1), ("int4", 2)])
def test_the_peak_of_memory_is_that_of_a_few_tensors(small: Path, tmp_path: Path, precision: Any, ranks: int) -> None:
    layers = 12 if precision == "bf16" else 40
    shape = Shape("wide", 1024, layers, 8, 2816 - 128, 2048, 2048, 2048, 10_000, False, 1024)
    source = tmp_path / "source"
    write_synthesis(plan_synthesis(shape, gptq_config(precision)), source)
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    largest = max(info.nbytes for file in source.glob("*.safetensors") for info in read_tensor_infos(file).values())
    peaks = peaks_of(source, small, ranks, tmp_path)
    assert size > 250 * MIB and all(peak < 6 * largest + 24 * MIB for peak in peaks), (peaks, largest, size)


@pytest.mark.slow
def test_a_large_embedding_is_never_in_memory_as_a_whole(small: Path, tmp_path: Path) -> None:
    shape = Shape("tall", 1024, 1, 8, 256, 131_072, 2048, 2048, 10_000, False, 1024)
    write_synthesis(plan_synthesis(shape, None), tmp_path / "source")
    peaks = peaks_of(tmp_path / "source", small, 1, tmp_path)
    assert all(peak < 3 * PART_BYTES < 2 * 131_072 * 1024 for peak in peaks), peaks
