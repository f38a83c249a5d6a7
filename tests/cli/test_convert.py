"""`qwartet convert`: result on stdout, failures in one line."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.cli.command_line import CommandLine, listing
from tests.tiny_checkpoint import Copy


def test_the_verb_says_what_it_wrote_and_the_error_of_loading_names_it(
    qwartet: CommandLine, checkpoint: Copy, tmp_path: Path
) -> None:
    directory = checkpoint()
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    error = qwartet("chat", directory, "hello")
    error.assert_one_line_error(f"qwartet convert {directory} NEW-DIRECTORY")
    before = listing(directory)
    outcome = qwartet("convert", directory, tmp_path / "converted")
    assert outcome.code == 0 and outcome.out.startswith(f"{tmp_path}/converted: ") and outcome.out.count("\n") == 1
    report = json.loads(qwartet("convert", directory, tmp_path / "again", "--json").out)
    assert report["files"] == ["model.safetensors"] and report["target"] == str(tmp_path / "again")
    assert listing(directory) == before
    assert qwartet("inspect", tmp_path / "converted").code == 0
    qwartet("convert", directory, tmp_path / "again").assert_one_line_error("exists; choose another name")
