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


ONE = [("user", "ab"), ("assistant", "cd")]
FORMS: list[tuple[Any, list[tuple[str, str]]]] = [
    ({"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]}, ONE),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "ab"}]}]}, ONE[:1]),
    ({"conversations": [{"from": "human", "value": "ab"}, {"from": "gpt", "value": "cd"}], "id": 7}, ONE),
    ({"conversations": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]}, ONE),
    ({"system": "be", "conversations": [{"from": "human", "value": "ab"}]}, [("system", "be"), *ONE[:1]]),
    ([{"role": "system", "content": "be"}, {"role": "user", "content": "ab"}], [("system", "be"), *ONE[:1]]),
    ([{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}], ONE),
    ({"instruction": "ab", "input": "", "output": "cd"}, ONE),
    ({"instruction": "ab", "input": "xy", "output": "cd"}, [("user", "ab\nxy"), ("assistant", "cd")]),
    ({"instruction": "ab", "output": "cd", "history": [["x", "y"]]}, [("user", "x"), ("assistant", "y"), *ONE]),
    ({"instruction": "ab", "output": "cd", "system": "be"}, [("system", "be"), *ONE]),
    ({"prompt": "ab", "completion": "cd"}, ONE),
    ({"prompt": [{"role": "user", "content": "ab"}], "completion": [{"role": "assistant", "content": "cd"}]}, ONE),
    ({"query": "ab", "response": "cd"}, ONE),
    ({"question": "ab", "answer": "cd"}, ONE),
]  # fmt: skip


@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "train.ndjson", "lines.json", "train.txt", "lines.txt"])
@pytest.mark.parametrize(
    ("entry", "turns"), FORMS, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_every_common_form_is_the_conversation_that_it_says(
    tmp_path: Path, entry: Any, turns: list[tuple[str, str]], name: str
) -> None:
    # A text may begin with a bracket: an array alone is taken for the record of a line only where the name says JSON.
    is_lines = name.startswith("lines") and (name != "lines.txt" or isinstance(entry, dict))
    text = json.dumps(entry)
    content = f"{text}\n\n{text}\n" if is_lines or name.endswith(("jsonl", "ndjson")) else f"[{text}, {text}]"
    (tmp_path / name).write_text(content)
    expected = chatml(*(() if turns[0][0] == "system" else (SYSTEM,)), *turns)
    assert load(tmp_path / name) == [expected, expected]


@pytest.mark.parametrize(
    "content", ['{"text": "abcd"}\n{"text": "你"}\n', '["abcd", "你"]', '[{"text": "abcd"}, "你"]']
)
def test_texts_are_examples_each_of_its_own(tmp_path: Path, content: str) -> None:
    (tmp_path / "texts.jsonl").write_text(content, encoding="utf-8")
    assert load(tmp_path / "texts.jsonl") == [small_tokenizer().encode("abcd"), small_tokenizer().encode("你")]


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.txt"])
@pytest.mark.parametrize(
    ("line", "words"), [("{", "is not valid JSON"), ('{"a": 1}', "is in no known form"), ("5", "is 5, not an object")]
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, name: str, line: str, words: str) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "ab"}]})
    (tmp_path / name).write_text(f"{good}\n\n{line}\n{good}\n")
    with pytest.raises(CheckpointError, match=f"{name}: line 3:? {words}"):
        load(tmp_path / name)


@pytest.mark.parametrize("text", ["ab cd\n", "{ab} cd", "[ab] cd\ncd", "5", '"ab"\n"cd"', "a,b\nc,d\n"])
def test_other_text_is_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "text.txt").write_text(text)
    assert load(tmp_path / "text.txt") == [small_tokenizer().encode(text)]


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.txt"])
@pytest.mark.parametrize("content", ["", " \n\n\t", "[]"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"{name}: holds no examples; choose a file with conversations or text"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.jsonl.gz", b"", "is a .gz file, which is not supported; unpack it: gunzip -k train.jsonl.gz"),
        ("train.jsonl", b"\x1f\x8b\x08", "is a .gz file"),
        ("train.txt", b"PK\x03\x04", "is a .zip file"),
        ("train.parquet", b"PAR1", "read_parquet.*train.jsonl"),
        ("train.csv", b"a,b\n", "is a .csv file, which is not supported; convert it in Python: pandas.read_csv"),
        ("train.tsv", b"a\tb\n", "is a .tsv file"),
        ("train.yaml", b"a: b\n", "is a .yaml file.*write it as JSON lines"),
        ("ids.npy", b"x", "is a .npy file.*one tensor of a .safetensors file"),
        ("text.txt", "你好".encode("gbk"), "byte 0 .0xc4. is not UTF-8 text; convert it: iconv"),
        ("text.txt", "ab".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    ],
)
def test_what_is_no_text_is_refused_with_the_next_step(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["text.txt", "train.json"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, encoding: str, name: str) -> None:
    text = "ab你" if name == "text.txt" else '["ab你"]'
    (tmp_path / name).write_text(text, encoding=encoding)
    assert load(tmp_path / name) == [small_tokenizer().encode("ab你")]


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
        (
            [{"conversations": TURNS}, {"dialogue": TURNS}],
            "entry 1: is in no known form; its keys are 'dialogue'",
        ),
        ({"data": [{"conversations": TURNS}]}, "the object: is in no known form; its keys are 'data'"),
        ([{"conversations": []}], r"entry 0: conversations is \[\], not a list of turns"),
        ([{"conversations": [{"from": "robot", "value": "ab"}]}], "entry 0: turn 1 is not"),
        ([{"conversations": [{"from": "tool", "value": "ab"}]}], "entry 0: turn 1 is not"),
        ([{"conversations": [{"from": "user", "value": 3}]}], "turn 1, of user, has the content 3, not a text"),
        ([{"conversations": ["ab"]}], "but 'ab'"),
        ([[]], r"entry 0: conversation is \[\], not a list of turns"),
        ([5], "entry 0: is 5, not an object"),
        (5, "holds a JSON int; write a list of conversations, or one per line"),
        ([{"prompt": "ab", "chosen": "cd", "rejected": "x"}], "its keys are 'prompt', 'chosen', 'rejected'"),
        ([{"instruction": "ab", "output": 5}], "entry 0: output is 5, not a text"),
        ([{"instruction": "a", "output": "b", "history": ["x"]}], r"not a list of \[question, answer\]"),
        ([{"messages": [*TURNS, {"role": "system", "content": "ab"}]}], "turn 3: a system turn is not the first"),
        ([{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}], "has the content .*, not a text"),
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
    with pytest.raises(CheckpointError, match=r"train.json: does not exist; check the path"):
        load(tmp_path / "train.json")
    (tmp_path / "text.txt").write_text("ab")
    (tmp_path / "qwen.tiktoken").unlink()
    with pytest.raises(VocabularyError, match=r"no vocabulary .*calibrate on token ids"):
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
