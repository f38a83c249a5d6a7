"""generation_config.json -> defaults: the published files, absent ones, and what is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.models.generation_config import GenerationDefaults, load_generation_defaults, parse_generation_config
from qwartet.models.generation_keys import NEUTRAL

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


HOW = r"chat_format is missing; if this is a chat model, set --chat-format chatml \(in Python chat_format=\"chatml\"\)"


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
        ({"top_p": True}, "top_p is True; it must be a number from 0 to 1"),
        ({"stop_words_ids": [151643]}, "it must be a list of lists of ids"),
        ({"stop_words_ids": [["a"]]}, "it must be a list of lists of ids"),
        ({"bad_words_ids": [5]}, "bad_words_ids is [5]; it must be a list of lists of ids"),
        ({"suppress_tokens": [[5]]}, "suppress_tokens is [[5]]; it must be a list of ids"),
        ({"begin_suppress_tokens": [-1]}, "begin_suppress_tokens is [-1]; it must be a list of ids"),
        ({"stop_strings": [""]}, "it must be a string or a list of strings"),
        ({"temperature": -1}, "temperature is -1; it must be a number from 0 (greedy) to 100"),
        ({"temperature": float("nan")}, "temperature is nan; it must be a number"),
        ({"temperature": float("inf")}, "temperature is inf; it must be a number"),
        ({"temperature": "0.7"}, "temperature is '0.7'; it must be a number"),
        ({"top_p": 7}, "top_p is 7; it must be a number from 0 to 1"),
        ({"top_k": -2}, "top_k is -2; it must be a whole number of at least 0"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number"),
        ({"min_p": 2}, "min_p is 2; it must be a number from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; it must be a number from 0.01 to 100"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be a whole number of at least 1"),
        ({"max_new_tokens": 2**70}, "max_new_tokens is 1180591620717411303424; it must be a whole number"),
        ({"max_length": -5}, "max_length is -5; it must be a whole number of at least 1"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1; it must be a whole number of at least 0"),
        ({"max_window_size": 0}, "max_window_size is 0; it must be a whole number of at least 1"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1; it must be a whole number of at least 0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_generation_config(CHAT | changes, PATH)
    assert caught.value.path == str(PATH) and words in str(caught.value)


HONOURED = {
    "max_length": 900,
    "min_new_tokens": 3,
    "min_length": 20,
    "min_p": 0.05,
    "no_repeat_ngram_size": 4,
    "bad_words_ids": [[7], [8, 9]],
    "suppress_tokens": [11],
    "begin_suppress_tokens": [12],
    "stop_strings": ["END"],
}


def read_in_silence(changes: dict[str, Any], *, without: str = "") -> GenerationDefaults:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return parse_generation_config({key: value for key, value in CHAT.items() if key != without} | changes, PATH)


def test_every_honoured_key_is_read_without_a_word() -> None:
    defaults = read_in_silence(HONOURED, without="max_new_tokens")
    assert (defaults.max_length, defaults.max_new_tokens, defaults.min_new_tokens) == (900, 900, 3)
    assert (defaults.min_length, defaults.min_p, defaults.no_repeat_ngram_size) == (20, 0.05, 4)
    assert (defaults.bad_words_ids, defaults.suppress_tokens) == (((7,), (8, 9)), (11,))
    assert (defaults.begin_suppress_tokens, defaults.stop_strings) == ((12,), ("END",))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_beams": 4}, "ignored: num_beams 4 (there is no beam search; answers are sampled, or greedy)"),
        ({"penalty_alpha": 0.6}, "penalty_alpha 0.6 (there is no contrastive search)"),
        ({"typical_p": 0.5, "eta_cutoff": 0.1}, "typical_p 0.5 (there is no typical sampling; min_p is close to it)"),
        ({"num_return_sequences": 2}, "num_return_sequences 2 (set n in the request)"),
        ({"exponential_decay_length_penalty": [5, 1.1]}, "exponential_decay_length_penalty [5, 1.1]"),
        ({"temprature": 0.5}, "'temprature' (an unknown key)"),
        ({"max_length": 99}, "max_length 99 (max_new_tokens overrides it)"),
        ({"min_new_tokens": 600}, "min_new_tokens 600 (an answer has at most 512 tokens)"),
        ({f"key{number}": number for number in range(500)}, "and 480 more"),
    ],
)
def test_what_is_not_honoured_is_told_of_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.warns(CheckpointWarning) as caught:
        defaults = parse_generation_config(CHAT | changes, PATH)
    assert len(caught) == 1 and words in str(caught[0].message) and str(PATH) in str(caught[0].message)
    assert len(str(caught[0].message)) < 2000
    assert defaults.min_new_tokens <= defaults.max_new_tokens == 512


@pytest.mark.parametrize(
    "changes",
    [
        {key: None for key in (*CHAT, *HONOURED, *NEUTRAL) if key not in ("chat_format", "max_new_tokens")},
        {key: neutral for key, (neutral, _) in NEUTRAL.items()},
        {"transformers_version": "4.37.2", "_from_model_config": True, "bos_token_id": 1, "use_cache": True},
        {"do_sample": False, "temperature": 0.0, "top_p": 1.0, "length_penalty": 2.0, "early_stopping": True},
        {"stop_words_ids": [], "bad_words_ids": [], "suppress_tokens": []},
    ],
)
def test_what_changes_no_token_is_neither_refused_nor_told_of(changes: dict[str, Any]) -> None:
    read_in_silence(changes)


def test_a_top_k_of_minus_one_keeps_all_as_in_other_engines() -> None:
    assert read_in_silence({"top_k": -1}).top_k == 0
