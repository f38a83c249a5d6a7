"""Leftovers of a download beside the loaded files: an error if files are written in place, otherwise a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_model
from tests.tiny_checkpoint import Copy

FILE = "model.safetensors"


@pytest.mark.parametrize("ending", [".aria2", ".st", ".lftp-pget-status"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_file_that_a_tool_still_writes_into_is_refused(checkpoint: Copy, ending: str, sharded: bool) -> None:
    directory = checkpoint(sharded=sharded)
    file = sorted(directory.glob("*.safetensors"))[-1]
    (directory / f"{file.name}{ending}").write_bytes(bytes(100))
    with pytest.raises(
        CheckpointError, match=f"its download is not finished: {file.name}{ending} still exists"
    ) as caught:
        load_model(directory)
    assert caught.value.path == str(file) and "resume it" in str(caught.value)
    assert inspect_checkpoint(directory).problems == [str(caught.value)]


@pytest.mark.parametrize("file", ["config.json", "qwen.tiktoken"])
def test_so_are_the_files_beside_the_weights(checkpoint: Copy, file: str) -> None:
    directory = checkpoint()
    (directory / f"{file}.aria2").touch()
    with pytest.raises(CheckpointError, match=f"{file}: its download is not finished"):
        load_model(directory)


def test_so_is_one_behind_a_link(checkpoint: Copy) -> None:
    snapshot = checkpoint()
    blobs = snapshot.parent / "blobs"
    blobs.mkdir()
    directory = snapshot.parent / "snapshots" / "commit"
    directory.parent.mkdir()
    snapshot.rename(directory)
    (directory / FILE).rename(blobs / "hash")
    (directory / FILE).symlink_to(Path("../../blobs/hash"))
    load_model(directory)
    (blobs / "hash.aria2").touch()
    with pytest.raises(CheckpointError, match=r"its download is not finished: hash\.aria2 still exists"):
        load_model(directory)


@pytest.mark.parametrize(
    "left",
    [
        f"{FILE}.part", f"{FILE}.incomplete", f"{FILE}.crdownload", f"{FILE}.download", f"{FILE}.tmp",
        f"{FILE}____temp", f"{FILE}.0123abcd.incomplete", f".{FILE}.x7.tmp", f"{FILE}.!qB", f"._____temp/{FILE}",
        f".cache/huggingface/download/{FILE}.incomplete",
    ],
)  # fmt: skip
def test_what_another_attempt_left_is_told_of_and_the_whole_file_is_loaded(checkpoint: Copy, left: str) -> None:
    directory = checkpoint()
    (directory / left).parent.mkdir(parents=True, exist_ok=True)
    (directory / left).touch()
    with pytest.warns(CheckpointWarning, match="found leftovers of a download: ") as caught:
        load_model(directory)
    assert left in str(caught[0].message)
    assert "remove them if the checkpoint's files are complete" in str(caught[0].message)
    assert str(caught[0].message) in inspect_checkpoint(directory).warnings


@pytest.mark.parametrize("other", ["notes.part", "other.safetensors.part", f"{FILE}.sha256", "model.safetensors-old"])
def test_other_files_mean_nothing(checkpoint: Copy, other: str) -> None:
    directory = checkpoint()
    (directory / other).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(directory)


def test_a_link_in_a_circle_is_left_to_what_reads_it(checkpoint: Copy) -> None:
    directory = checkpoint()
    (directory / "notes.json").symlink_to("notes.json")
    load_model(directory)
