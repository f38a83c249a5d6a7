"""generation_config.json -> defaults: the published files, absent ones, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwartet.errors import CheckpointError, CheckpointWarning
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


def test_without_a_file_a_checkpoint_is_a_base_model_and_this_is_said(tmp_path: Path) -> None:
    with pytest.warns(CheckpointWarning, match="file is missing; sampling defaults are the library's"):
        assert load_generation_defaults(tmp_path) == GenerationDefaults()


def test_without_a_chat_format_a_checkpoint_is_a_base_model_and_this_is_said(tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({key: value for key, value in CHAT.items() if key != "chat_format"}), encoding="utf-8")
    with pytest.warns(CheckpointWarning, match="chat_format is missing; the checkpoint is taken for a base model"):
        assert not load_generation_defaults(tmp_path).is_chat


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
