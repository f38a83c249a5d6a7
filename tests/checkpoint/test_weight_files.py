"""Weights as tools leave them: under other names, as links, beside other files, or as something else."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.llm import LLM
from qwartet.models.families import load_config
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.load import load_model
from tests.models.broken import edit_json, edit_tensors, logits, refused
from tests.tiny_checkpoint import Copy

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BASE = "gptq_model-4bit-128g"


# Names chosen by a quantiser


def rename(directory: Path, base: str) -> None:
    """Gives the weights another base name, as quantisers do."""
    for path in directory.glob("model*.safetensors*"):
        path.rename(directory / path.name.replace("model", base, 1))
    index = directory / f"{base}.safetensors.index.json"
    if index.is_file():
        index.write_text(index.read_text(encoding="utf-8").replace('"model-', f'"{base}-'), encoding="utf-8")


def state(directory: Path, base: str, key: str, file: str) -> None:
    """Has one of the two configs say what the weights are called."""
    if file == "config.json":
        config = json.loads((directory / file).read_text(encoding="utf-8"))
        edit_json(directory / file, {"quantization_config": config["quantization_config"] | {key: base}})
    else:
        edit_json(directory / file, {key: base})


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("key", ["model_file_base_name", "model_basename"])
@pytest.mark.parametrize("file", ["config.json", "quantize_config.json"])
def test_the_base_name_that_a_config_states_is_found_beside_other_weights(
    checkpoint: Copy, sharded: bool, key: str, file: str
) -> None:
    directory = checkpoint(bits=4, sharded=sharded)
    expected = logits(directory)
    rename(directory, BASE)
    state(directory, BASE, key, file)
    for name in ("other.safetensors", "another.safetensors"):
        save_file({"x": torch.ones(1)}, directory / name)
    assert torch.equal(logits(directory), expected)
    used = {one["name"] for one in inspect_checkpoint(directory).files if one["is_used"]}
    assert f"{BASE}.safetensors{'.index.json' if sharded else ''}" in used


@pytest.mark.parametrize("base", ["../outside", "/outside", "a/b", "", 5, None, ["x"], "absent"])
def test_a_stated_base_name_that_names_nothing_here_changes_nothing(checkpoint: Copy, base: object) -> None:
    directory = checkpoint(bits=4)
    shutil.copy(directory / "model.safetensors", directory.parent / "outside.safetensors")
    edit_tensors(directory.parent / "outside.safetensors", lambda tensors: tensors.pop("lm_head.weight"))
    expected = logits(directory)
    edit_json(directory / "quantize_config.json", {"model_file_base_name": base})
    assert torch.equal(logits(directory), expected)


def test_an_only_index_of_another_name_is_taken_unstated(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    expected = logits(directory)
    rename(directory, "weights")
    assert torch.equal(logits(directory), expected)


def test_two_indexes_of_other_names_are_not_guessed_between(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    rename(directory, "one")
    shutil.copy(directory / "one.safetensors.index.json", directory / "two.safetensors.index.json")
    refused(directory, None, "one.safetensors.index.json, two.safetensors.index.json", "model_file_base_name")


@pytest.mark.parametrize("stray", ["adapter_model.safetensors", "optimizer.safetensors", "training_args.bin"])
def test_files_of_a_training_run_beside_the_weights_are_no_weights(checkpoint: Copy, stray: str) -> None:
    directory = checkpoint()
    expected = logits(directory)
    (directory / "model.safetensors").rename(directory / "pytorch_model.safetensors")
    save_file({"x": torch.ones(1)}, directory / stray)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        assert torch.equal(logits(directory), expected)


# Links, as download tools create them


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("is_relative", [False, True])
def test_links_to_files_anywhere_are_as_good_as_the_files(checkpoint: Copy, sharded: bool, is_relative: bool) -> None:
    directory = checkpoint(sharded=sharded)
    expected = logits(directory)
    other_disk = directory.parent / "other" / "disk"
    other_disk.mkdir(parents=True)
    for number, path in enumerate(sorted(directory.iterdir())):
        path.rename(other_disk / str(number))
        path.symlink_to(Path("..", "other", "disk", str(number)) if is_relative else other_disk / str(number))
    assert torch.equal(logits(directory), expected)
    assert not inspect_checkpoint(directory).problems
    whole = directory.parent / "whole"
    whole.symlink_to(directory, target_is_directory=True)
    assert torch.equal(logits(whole), expected)
    assert LLM(whole, device="cpu").tokenizer is not None


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json", INDEX, SHARDS[1]])
def test_a_link_that_leads_nowhere_or_in_a_circle_is_named(checkpoint: Copy, name: str) -> None:
    directory = checkpoint(sharded=name in (INDEX, SHARDS[1]))
    path = directory / name
    for target in (directory / "absent", path):
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(CheckpointError, match="is a link that leads nowhere; fetch this file again") as caught:
            LLM(directory, device="cpu")
        assert caught.value.path == str(path)


# What is not a file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # the name of a socket is short
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


KINDS = {
    "a pipe": pipe,
    "a socket": unix_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a directory": Path.mkdir,
}
FILES = ["config.json", "generation_config.json", "quantize_config.json", "model.safetensors", INDEX, SHARDS[0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*FILES, "qwen.tiktoken"])
def test_what_is_no_file_is_refused_at_once_whatever_it_is_called(checkpoint: Copy, name: str, kind: str) -> None:
    directory = checkpoint(bits=4, sharded=name in (INDEX, SHARDS[0]))
    (directory / name).unlink()
    KINDS[kind](directory / name)
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        LLM(directory, device="cpu")
    assert caught.value.path == str(directory / name)
    assert "not a file" in str(caught.value)
    if name != "qwen.tiktoken":
        assert f"is {kind}, not a file; replace it with the file itself" in str(caught.value)
    found = inspect_checkpoint(directory)
    assert any(str(directory / name) in problem for problem in found.problems), found.problems
    assert time.monotonic() - started < 5


def test_a_draft_model_of_pipes_is_refused_at_once(checkpoint: Copy, pristine) -> None:
    directory = checkpoint()
    (directory / "model.safetensors").unlink()
    pipe(directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a pipe, not a file"):
        LLM(pristine(), device="cpu", draft_model=directory)


@pytest.mark.parametrize("method", ["iterdir", "stat"])
def test_a_directory_that_may_not_be_read_is_named(checkpoint: Copy, monkeypatch, method: str) -> None:
    directory = checkpoint()
    real = getattr(Path, method)

    def denied(path: Path, *arguments, **settings):
        if path == directory or path.parent == directory:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **settings)

    monkeypatch.setattr(Path, method, denied)  # chmod would not stop a superuser
    with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\); check its permissions"):
        load_model(directory)


def test_nothing_is_no_file_and_no_error(tmp_path: Path) -> None:
    assert not has_file(tmp_path / "absent")
    (tmp_path / "file").touch()
    assert has_file(tmp_path / "file") and not has_file(tmp_path / "file" / "below")


# What is not a model


def lora_tensors() -> dict[str, torch.Tensor]:
    return {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": torch.zeros(4, 4)}


def write_adapter(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    config = {"base_model_name_or_path": "Qwen/Qwen-7B-Chat", "peft_type": "LORA"}
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(lora_tensors(), directory / "adapter_model.safetensors")


ADAPTER = "holds a LoRA adapter for 'Qwen/Qwen-7B-Chat', not a complete model; merge it into its base model"


def test_the_directory_of_an_adapter_is_called_that(tmp_path: Path, checkpoint: Copy) -> None:
    write_adapter(tmp_path / "adapter")
    for load in (load_config, load_model):
        with pytest.raises(CheckpointError, match=ADAPTER):
            load(tmp_path / "adapter")
    assert any(ADAPTER in problem for problem in inspect_checkpoint(tmp_path / "adapter").problems)
    directory = checkpoint()
    write_adapter(directory)
    (directory / "model.safetensors").unlink()
    refused(directory, None, ADAPTER)
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    refused(directory, None, ADAPTER)


def test_weights_that_were_saved_with_an_adapter_not_merged_are_called_that(checkpoint: Copy) -> None:
    directory = checkpoint()
    edit_tensors(directory / "model.safetensors", lambda tensors: tensors.update(lora_tensors()))
    refused(directory, None, "holds a LoRA adapter, not a complete model; merge it into its base model")


def test_an_adapter_beside_a_model_is_told_for_it_is_not_applied(checkpoint: Copy) -> None:
    directory = checkpoint()
    expected = logits(directory)
    write_adapter(directory)
    with pytest.warns(CheckpointWarning, match=r"adapter_model\.safetensors is an adapter \(LoRA\) and is not applied"):
        assert torch.equal(logits(directory), expected)


@pytest.mark.parametrize(("key", "model"), [("visual", "Qwen-VL"), ("audio", "Qwen-Audio")])
def test_models_that_see_or_hear_are_called_by_their_name(checkpoint: Copy, key: str, model: str) -> None:
    directory = checkpoint()
    edit_json(directory / "config.json", {key: {"layers": 2, "width": 8}})
    refused(directory, "config.json", f"is of a {model} checkpoint", f"key '{key}'")
    assert any(model in problem for problem in inspect_checkpoint(directory).problems)


def test_pickled_weights_are_told_how_to_be_converted(checkpoint: Copy) -> None:
    directory = checkpoint()
    (directory / "model.safetensors").rename(directory / "pytorch_model-00001-of-00001.bin")
    (directory / "training_args.bin").touch()
    refused(directory, None, "holds only pickled weights", f"qwartet convert {directory} NEW-DIRECTORY")


# An index of many files


def test_an_index_of_many_names_in_many_files_is_read_in_linear_time(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    for number in range(1500):
        names = [f"x{number}.{one}" for one in range(20)]
        header = json.dumps(dict.fromkeys(names, empty)).encode()
        (directory / f"a{number}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        index["weight_map"].update(dict.fromkeys(names, f"a{number}.safetensors"))
    (directory / INDEX).write_text(json.dumps(index), encoding="utf-8")
    started = time.process_time()
    assert len(Checkpoint(directory).files) == 1502
    assert time.process_time() - started < 5  # a second where it is linear, a minute where it is not
    (directory / "a0.safetensors").write_bytes(b"")  # so that inspecting looks at each file by itself
    started = time.process_time()
    assert inspect_checkpoint(directory).problems
    assert time.process_time() - started < 10


def test_two_files_of_one_index_may_not_be_swapped(checkpoint: Copy) -> None:
    directory = checkpoint(sharded=True)
    names = [set(load_file(directory / shard)) for shard in SHARDS]
    infos = Checkpoint(directory).tensors
    assert [{name for name in infos if infos[name].file.name == shard} for shard in SHARDS] == names
