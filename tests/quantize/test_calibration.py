"""Calibration files: conversations, text, ids; and what is wrong with a file is said with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qwartet.errors import CheckpointError, SettingError, VocabularyError
from qwartet.quantize.calibration import load_calibration
from tests.tokenizer.vocabularies import small_tokenizer, write_small_vocabulary

TURNS = [{"from": "user", "value": "ab"}, {"from": "assistant", "value": "cd"}]
IDS = torch.arange(12, dtype=torch.int32).reshape(3, 4)


def load(file: Path, num_samples: int = 100, max_len: int = 1000) -> list[list[int]]:
    write_small_vocabulary(file.parent / "qwen.tiktoken")
    return load_calibration(file, file.parent, num_samples=num_samples, max_len=max_len)


def write_json(directory: Path, content: Any) -> Path:
    (directory / "train.json").write_text(json.dumps(content), encoding="utf-8")
    return directory / "train.json"


def chatml(*turns: tuple[str, str]) -> list[int]:
    """The ids of a rendered dialogue, its markers parsed from the text."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return small_tokenizer().encode(text, allowed_special="all")


SYSTEM = ("system", "You are a helpful assistant.")


def test_a_conversation_becomes_its_whole_dialogue_in_chatml(tmp_path: Path) -> None:
    file = write_json(tmp_path, [{"id": "0", "conversations": TURNS}, {"id": "1", "conversations": TURNS * 2}])
    first = chatml(SYSTEM, ("user", "ab"), ("assistant", "cd"))
    second = chatml(SYSTEM, ("user", "ab"), ("assistant", "cd"), ("user", "ab"), ("assistant", "cd"))
    assert load(file) == [first, second]


def test_a_first_turn_that_is_not_the_users_is_dropped(tmp_path: Path) -> None:
    file = write_json(tmp_path, [{"conversations": [{"from": "assistant", "value": "dropped"}, *TURNS]}])
    assert load(file) == [chatml(SYSTEM, ("user", "ab"), ("assistant", "cd"))]


def test_conversations_are_cut_and_not_padded(tmp_path: Path) -> None:
    file = write_json(tmp_path, [{"conversations": TURNS}, {"conversations": TURNS * 3}])
    whole = load(file)
    shortest = len(whole[0])
    assert load(file, max_len=shortest + 1) == [whole[0], whole[1][: shortest + 1]]


def test_text_is_cut_into_examples_of_max_len_tokens(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcd你xyz", encoding="utf-8")
    ids = small_tokenizer().encode("abcd你xyz")
    assert len(ids) == 5
    assert load(tmp_path / "text.txt", max_len=2) == [ids[:2], ids[2:4], ids[4:]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_stored_ids_are_taken_as_they_are_without_a_vocabulary(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"calibration_ids": IDS.to(dtype)}, tmp_path / "ids.safetensors")
    examples = load_calibration(tmp_path / "ids.safetensors", tmp_path, num_samples=2, max_len=3)
    assert examples == [[0, 1, 2], [4, 5, 6]]


def test_only_the_first_num_samples_are_taken(tmp_path: Path) -> None:
    file = write_json(tmp_path, [{"conversations": TURNS[:1]}, {"conversations": TURNS}, {"conversations": TURNS * 2}])
    (tmp_path / "text.txt").write_text("abcdxyz")
    assert load(file, num_samples=2) == load(file)[:2]
    assert load(tmp_path / "text.txt", num_samples=2, max_len=1) == load(tmp_path / "text.txt", max_len=1)[:2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"conversations": TURNS}, "holds a JSON dict; it must be a list of conversations"),
        ([{"conversations": TURNS}, {"messages": TURNS}], 'entry 1 has no list "conversations"'),
        ([{"conversations": []}], 'entry 0 has no list "conversations"'),
        ([{"conversations": [{"from": "robot", "value": "ab"}]}], "entry 0: a turn is"),
        ([{"conversations": [{"from": "user", "value": 3}]}], "entry 0: a turn is"),
        ([{"conversations": ["ab"]}], "not ab"),
        ([[]], "entry 0 has no list"),
    ],
)
def test_a_conversation_file_of_another_form_is_refused_with_its_entry(
    tmp_path: Path, content: Any, words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        load(write_json(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.json", b"[{", "is not valid JSON"),
        ("train.json", b"[" * 100_000, "is not valid JSON"),
        ("text.txt", b"ab\xff", "is not UTF-8 text"),
        ("ids.safetensors", b"abc", "not a safetensors file"),
    ],
)
def test_a_broken_file_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: .*{words}"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    "tensors", [{"a": IDS, "b": IDS + 1}, {"ids": IDS.reshape(-1)}, {"ids": IDS.float()}, {"ids": IDS.to(torch.int16)}]
)
def test_stored_ids_of_another_form_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "ids.safetensors")
    with pytest.raises(CheckpointError, match="must hold one tensor"):
        load(tmp_path / "ids.safetensors")


def test_a_missing_file_and_a_missing_vocabulary_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"train.json: cannot be read \(No such file or directory\)"):
        load(tmp_path / "train.json")
    (tmp_path / "text.txt").write_text("ab")
    (tmp_path / "qwen.tiktoken").unlink()
    with pytest.raises(VocabularyError):
        load_calibration(tmp_path / "text.txt", tmp_path, num_samples=1, max_len=1)


@pytest.mark.parametrize("bad", [{"num_samples": 0}, {"max_len": -1}])
def test_counts_below_one_are_refused(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="both must be at least 1"):
        load(tmp_path / "text.txt", **bad)


@pytest.mark.parametrize("name", ["text.txt", "train.json", "ids.safetensors"])
def test_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="is a pipe, not a file"):
        load_calibration(tmp_path / name, tmp_path, num_samples=1, max_len=1)
