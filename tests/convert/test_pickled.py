"""Pickled weights written anew: the same tensors, and no code of a file runs, here or in the process that reads it."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qwartet.convert.pickled import convert_pickled
from qwartet.errors import CheckpointError, SettingError
from tests.models.broken import logits
from tests.tiny_checkpoint import Copy

BASE = "gptq_model-4bit-128g"


def pickled(directory: Path, *, name: str = "pytorch_model.bin", num_files: int = 1, legacy: bool = False) -> Path:
    """Turns a sound checkpoint into one of .bin files, with an index where there are several."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, weight_map = list(tensors), {}
    for number in range(num_files):
        stem, suffix = os.path.splitext(name)
        file = name if num_files == 1 else f"{stem}-{number + 1:05}-of-{num_files:05}{suffix}"
        part = {one: tensors[one] for one in names[number::num_files]}
        torch.save(part, directory / file, _use_new_zipfile_serialization=not legacy)
        weight_map |= dict.fromkeys(part, file)
    if num_files > 1:
        (directory / f"{name}.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("bits", "how"),
    [
        (None, {}),
        (None, {"legacy": True}),
        (4, {"num_files": 2}),
        (4, {"name": f"{BASE}.bin"}),
    ],
    ids=["zip", "legacy", "indexed", "quantiser"],
)
def test_the_network_is_the_same(checkpoint: Copy, pristine, bits, how) -> None:
    directory, target = pickled(checkpoint(bits=bits), **how), Path("converted")
    target = directory.parent / target
    told: list[tuple[int, int]] = []
    names = convert_pickled(directory, target, lambda count, total: told.append((count, total)))
    assert len(names) == how.get("num_files", 1) and sum(count for count, _ in told) == told[0][1]
    assert torch.equal(logits(target), logits(pristine(bits=bits)))
    kept = ("config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken")
    assert all((target / name).read_bytes() == (directory / name).read_bytes() for name in kept[1:])
    assert json.loads((target / kept[0]).read_text()) == json.loads((directory / kept[0]).read_text())


def test_what_the_configs_call_the_weights_becomes_their_new_name(checkpoint: Copy) -> None:
    directory = pickled(checkpoint(bits=4), name=f"{BASE}.bin")
    config = json.loads((directory / "quantize_config.json").read_text()) | {"model_file_base_name": BASE}
    (directory / "quantize_config.json").write_text(json.dumps(config))
    convert_pickled(directory, directory.parent / "converted")
    found = json.loads((directory.parent / "converted" / "quantize_config.json").read_text())
    assert found == config | {"model_file_base_name": "model"}


def test_tensors_that_share_memory_or_are_views_are_written_whole(checkpoint: Copy) -> None:
    directory = checkpoint()
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    tensors["transformer.wte.weight"] = tensors["lm_head.weight"]
    tensors["transformer.h.0.attn.c_proj.weight"] = tensors["transformer.h.0.attn.c_proj.weight"].t().contiguous().t()
    tensors["scalar"] = torch.tensor(3.5)
    tensors["empty"] = torch.ones(0, 4)
    torch.save(tensors, directory / "pytorch_model.bin")
    convert_pickled(directory, directory.parent / "converted")
    found = load_file(directory.parent / "converted" / "model.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in found)


class RunsCode:
    """Pickles as a call of os.system."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(checkpoint: Copy, tmp_path: Path, form: str) -> None:
    directory, marker = pickled(checkpoint()), tmp_path / "it-ran"
    path = directory / "pytorch_model.bin"
    if form == "plain":
        path.write_bytes(pickle.dumps({"transformer.wte.weight": RunsCode(marker)}, 2))
    else:
        torch.save({"transformer.wte.weight": RunsCode(marker)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"cannot be converted .*; fetch it again, or use safetensors") as caught:
        convert_pickled(directory, tmp_path / "converted")
    assert caught.value.path == str(path) and str(caught.value).isprintable() and len(str(caught.value)) < 800
    assert "weights_only" not in str(caught.value)  # torch's own text advises to switch the protection off
    assert "GLOBAL" in str(caught.value) or form == "plain"
    assert not marker.exists() and not (tmp_path / "converted").exists() and not list(tmp_path.glob(".converted*"))


def huge(tensors: dict[str, Tensor]) -> object:
    return {**tensors, "bomb": torch.zeros(1).expand(2**40)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda tensors: list(tensors.values()), "holds a list, not a dict of tensors"),
        (lambda tensors: {}, "holds a dict, not a dict of tensors"),
        (lambda tensors: {**tensors, "state": {"a": 1}}, "'state' is of type dict, not a tensor"),
        (lambda tensors: {**tensors, "z": torch.zeros(2, dtype=torch.complex64)}, "torch.complex64"),
        (lambda tensors: {**tensors, "s": torch.zeros(2, 2).to_sparse()}, "sparse"),
        (huge, "memory"),
    ],
    ids=["list", "empty", "nested", "complex", "sparse", "huge"],
)
def test_what_is_no_dict_of_plain_tensors_is_refused(checkpoint: Copy, content, words: str) -> None:
    directory = checkpoint()
    torch.save(content(load_file(directory / "model.safetensors")), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=f"cannot be converted .*{words}"):
        convert_pickled(directory, directory.parent / "converted")
    assert not (directory.parent / "converted").exists()


@pytest.mark.parametrize(
    "damage",
    [lambda path: os.truncate(path, 5000), lambda path: path.write_bytes(b""), lambda path: path.write_text("<html>")],
    ids=["cut", "empty", "page"],
)
def test_a_damaged_file_is_refused(checkpoint: Copy, damage) -> None:
    directory = pickled(checkpoint())
    damage(directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be converted"):
        convert_pickled(directory, directory.parent / "converted")


def test_an_index_that_the_files_do_not_fit_is_refused(checkpoint: Copy) -> None:
    directory = pickled(checkpoint(), num_files=2)
    index = directory / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["absent.weight"] = "pytorch_model-00001-of-00002.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"1 tensors of the index are in no file: absent\.weight"):
        convert_pickled(directory, directory.parent / "converted")
    (directory / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 files missing: pytorch_model-00002-of-00002\.bin; fetch them"):
        convert_pickled(directory, directory.parent / "converted")
    for name in ("../x.bin", "/etc/passwd", "x.sh", 5):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CheckpointError, match=r"not a plain \.bin file name|has no weight_map"):
            convert_pickled(directory, directory.parent / "converted")


def test_a_pipe_is_refused_at_once(checkpoint: Copy) -> None:
    directory = pickled(checkpoint())
    (directory / "pytorch_model.bin").unlink()
    os.mkfifo(directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is a pipe, not a file"):
        convert_pickled(directory, directory.parent / "converted")


def test_there_has_to_be_something_to_convert_and_a_free_name(checkpoint: Copy, tmp_path: Path) -> None:
    directory = checkpoint()
    with pytest.raises(SettingError, match=r"already holds \.safetensors files; there is nothing to convert"):
        convert_pickled(directory, tmp_path / "converted")
    (directory / "model.safetensors").unlink()
    (directory / "training_args.bin").touch()
    with pytest.raises(SettingError, match=r"holds no pickled weights \(\*\.bin\)"):
        convert_pickled(directory, tmp_path / "converted")
    torch.save({"a": torch.ones(1)}, directory / "pytorch_model.bin")
    (tmp_path / "converted").mkdir()
    with pytest.raises(SettingError, match="exists; choose another name, or remove it"):
        convert_pickled(directory, tmp_path / "converted")
