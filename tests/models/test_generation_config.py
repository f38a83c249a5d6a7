"""generation_config.json -> defaults: the published files, absent ones, and what is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.models.generation_config import GenerationDefaults, load_generation_defaults, parse_generation_config

PATH = Path("dir/generation_config.json")
COMMON = {
    "eos_token_id": 151643,
    "pad_token_id": 151643,
    "max_new_tokens": 512,
    "do_sample": True,
    "top_k": 0,
    "top_p": 0.8,
}
CHAT = COMMON | {"chat_format": "chatml", "max_window_size": 6144, "repetition_penalty": 1.1}
BASE = COMMON | {"chat_format": "raw", "stop_words_ids": [[151643]]}


def test_the_published_chat_file_is_read() -> None:
    defaults = parse_generation_config(CHAT, PATH)
    assert defaults.is_chat
    assert (defaults.do_sample, defaults.top_k, defaults.top_p, defaults.temperature) == (True, 0, 0.8, 1.0)
    assert (defaults.repetition_penalty, defaults.max_new_tokens, defaults.max_window_size) == (1.1, 512, 6144)
    assert (defaults.eos_token_ids, defaults.pad_token_id, defaults.stop_words_ids) == ((151643,), 151643, ())


def test_the_published_base_file_is_read() -> None:
    defaults = parse_generation_config(BASE, PATH)
    assert not defaults.is_chat
    assert defaults.stop_words_ids == ((151643,),)


HOW = r"chat_format is missing; if this model chats, give --chat-format chatml \(in Python chat_format=\"chatml\"\)"


def test_without_a_file_the_defaults_are_the_library_s_and_this_is_said(tmp_path: Path) -> None:
    with (
        pytest.warns(CheckpointWarning, match="file is missing; sampling defaults are the library's"),
        pytest.warns(CheckpointWarning, match=HOW),
    ):
        assert load_generation_defaults(tmp_path) == GenerationDefaults()


def test_without_a_chat_format_a_checkpoint_is_neither_base_nor_chat_and_how_to_say_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({key: value for key, value in CHAT.items() if key != "chat_format"}), encoding="utf-8")
    with pytest.warns(CheckpointWarning, match=HOW):
        defaults = load_generation_defaults(tmp_path)
    assert defaults.chat_format is None and not defaults.is_chat
    assert "base model" not in defaults.chat_refusal and "--chat-format chatml" in defaults.chat_refusal


@pytest.mark.parametrize("content", [None, {}, {"chat_format": None}, BASE, CHAT])
@pytest.mark.parametrize("given", ["chatml", "raw"])
def test_a_chat_format_that_is_given_is_taken_and_nothing_is_said_of_it(tmp_path: Path, content, given: str) -> None:
    if content is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*file is missing", CheckpointWarning)
        defaults = load_generation_defaults(tmp_path, given)
    assert (defaults.chat_format, defaults.is_chat) == (given, given == "chatml")


def test_a_chat_format_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="chat_format is 'alpaca'; it must be one of chatml, raw"):
        load_generation_defaults(tmp_path, "alpaca")


@pytest.mark.parametrize(
    ("own", "of_config", "expected"),
    [
        (7, None, (7,)),
        ([7, 9], None, (7, 9)),
        ([7, 9, 7], [9, 8], (7, 9, 8)),
        (None, 8, (8,)),
        ([], [8, 9], (8, 9)),
        (None, None, ()),
    ],
)
def test_the_end_ids_of_both_configs_are_joined(tmp_path: Path, own, of_config, expected: tuple[int, ...]) -> None:
    for name, value in (("generation_config.json", own), ("config.json", of_config)):
        (tmp_path / name).write_text(json.dumps(CHAT | {"eos_token_id": value}), encoding="utf-8")
    assert load_generation_defaults(tmp_path).eos_token_ids == expected


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_end_ids_that_are_none_are_refused_naming_the_file(tmp_path: Path, name: str) -> None:
    for one in ("generation_config.json", "config.json"):
        eos = [1, -1] if one == name else 1
        (tmp_path / one).write_text(json.dumps(CHAT | {"eos_token_id": eos}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"eos_token_id is \[1, -1\]; it must be an id or a list") as caught:
        load_generation_defaults(tmp_path)
    assert caught.value.path == str(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chat_format": "llama"}, "chat_format is 'llama'; it must be one of chatml, raw"),
        ({"chat_format": ["chatml"]}, "chat_format is ['chatml']"),
        ({"eos_token_id": "151643"}, "eos_token_id is '151643'; it must be an id or a list of ids"),
        ({"eos_token_id": [151643, "a"]}, "eos_token_id is [151643, 'a']"),
        ({"eos_token_id": [[151643]]}, "eos_token_id is [[151643]]"),
        ({"eos_token_id": True}, "eos_token_id is True"),
        ({"do_sample": 1}, "do_sample is 1; it must be of type bool"),
        ({"top_p": True}, "top_p is True; it must be of type float"),
        ({"stop_words_ids": [151643]}, "it must be a list of lists of ids"),
        ({"stop_words_ids": [["a"]]}, "it must be a list of lists of ids"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_generation_config(CHAT | changes, PATH)
    assert caught.value.path == str(PATH) and words in str(caught.value)
