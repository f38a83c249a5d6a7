"""The card's tokenizer interface, on a vocabulary small enough to count by hand (the id of a letter is its byte)."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from qwartet.compat.batch_encoding import NO_LIMIT
from qwartet.compat.tokenization import AutoTokenizer, QWenTokenizer
from qwartet.errors import CheckpointError, SettingError, VocabularyError
from qwartet.tokenizer.chatml import make_context
from tests.tokenizer.vocabularies import SMALL_N, SMALL_RANKS, tiktoken_line, write_small_vocabulary

PAD = SMALL_N + 3


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_small_vocabulary(tmp_path / "qwen.tiktoken")
    return tmp_path


@pytest.fixture
def tokenizer(directory: Path) -> QWenTokenizer:
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=True, pad_token="<|extra_0|>")


def test_special_tokens_in_a_text_are_parsed_as_published(tokenizer: QWenTokenizer) -> None:
    assert tokenizer.encode("x<|im_end|>") == [ord("x"), tokenizer.im_end_id]
    assert tokenizer("x<|im_end|>").input_ids == [ord("x"), tokenizer.im_end_id]
    assert tokenizer.encode("<|im_end|>", allowed_special=set()) == [*b"<|im_end|>"]
    with pytest.raises(ValueError, match="disallowed special token"):
        tokenizer("<|im_end|>", allowed_special=set(), disallowed_special="all")


def test_a_call_on_one_text_gives_flat_lists(tokenizer: QWenTokenizer) -> None:
    assert tokenizer("xyz") == {
        "input_ids": [*b"xyz"],
        "token_type_ids": [0, 0, 0],
        "attention_mask": [1, 1, 1],
    }


def test_a_call_on_several_texts_pads_to_the_longest(tokenizer: QWenTokenizer) -> None:
    right = tokenizer(["x", "xyz"], padding=True)
    assert right.input_ids == [[ord("x"), PAD, PAD], [*b"xyz"]]
    assert right.attention_mask == [[1, 0, 0], [1, 1, 1]]
    left = tokenizer(["x", "xyz"], padding="longest", padding_side="left")
    assert left.input_ids == [[PAD, PAD, ord("x")], [*b"xyz"]]
    assert left.attention_mask == [[0, 0, 1], [1, 1, 1]]
    assert left.token_type_ids == [[0, 0, 0]] * 2
    assert tokenizer(["x", "xyz"]).input_ids == [[ord("x")], [*b"xyz"]]


def test_truncation_and_padding_to_a_length(tokenizer: QWenTokenizer) -> None:
    assert tokenizer("xyz", truncation=True, max_length=2).input_ids == [*b"xy"]
    assert tokenizer("x", padding="max_length", max_length=3).input_ids == [ord("x"), PAD, PAD]
    tokenizer.model_max_length = 2
    assert tokenizer("xyz", truncation=True).input_ids == [*b"xy"]
    assert tokenizer("xyz").input_ids == [*b"xyz"]


def test_tensors_are_batches_of_int64(tokenizer: QWenTokenizer) -> None:
    batch = tokenizer("xyz", return_tensors="pt").to("cpu")
    assert batch.input_ids.tolist() == [[*b"xyz"]]
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert tokenizer(["x", "xyz"], padding=True, return_tensors="pt")["attention_mask"].sum() == 4
    assert tokenizer.encode("xyz", return_tensors="pt").shape == (1, 3)
    with pytest.raises(AttributeError):
        _ = batch.labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"return_tensors": "tf"}, "return_tensors is 'tf'"),
        ({"return_tensors": "pt"}, "the texts differ in length"),
        ({"padding": "most"}, "padding is 'most'"),
        ({"padding": "max_length"}, "needs a length"),
        ({"padding": True, "padding_side": "top"}, "padding_side is 'top'"),
    ],
)
def test_impossible_call_settings_are_refused(
    tokenizer: QWenTokenizer, arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        tokenizer(["x", "xyz"], **arguments)


def test_padding_without_a_padding_token_is_refused(directory: Path) -> None:
    with pytest.raises(SettingError, match="no padding token"):
        AutoTokenizer.from_pretrained(directory)(["x"], padding=True)


def test_decode_takes_an_id_a_list_an_array_and_a_tensor(tokenizer: QWenTokenizer) -> None:
    ids = [ord("x"), tokenizer.im_end_id]
    assert tokenizer.decode(ord("x")) == "x"
    assert tokenizer.decode(ids) == tokenizer.decode(torch.tensor(ids)) == "x<|im_end|>"
    assert tokenizer.decode(torch.tensor(ids).numpy(), skip_special_tokens=True) == "x"
    assert tokenizer.decode(torch.tensor(ord("x"))) == "x"
    assert tokenizer.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=True) == ["x", "x"]


def test_skipping_special_tokens_drops_extra_vocabulary_too_as_published(directory: Path) -> None:
    (directory / "extra").write_bytes(tiktoken_line(b"xyz", SMALL_N + 208))
    tokenizer = AutoTokenizer.from_pretrained(directory, extra_vocab_file=directory / "extra")
    assert tokenizer.encode("xyz") == [SMALL_N + 208]
    assert tokenizer.decode(SMALL_N + 208) == "xyz"
    assert tokenizer.decode(SMALL_N + 208, skip_special_tokens=True) == ""


def test_bytes_that_are_no_text_are_answered_as_errors_says(directory: Path) -> None:
    assert AutoTokenizer.from_pretrained(directory).decode([0xE4]) == "\ufffd"
    tokenizer = AutoTokenizer.from_pretrained(directory, errors="ignore")
    assert tokenizer.decode([0xE4]) == ""
    assert tokenizer.decode([0xE4], errors="replace") == "\ufffd"


def test_tokens_and_ids_convert_both_ways(tokenizer: QWenTokenizer) -> None:
    assert tokenizer.tokenize("abx<|im_end|>") == [b"ab", b"x", "<|im_end|>"]
    ids = [SMALL_RANKS[b"ab"], ord("x"), tokenizer.im_end_id]
    assert tokenizer.convert_tokens_to_ids([b"ab", b"x", "<|im_end|>", b"unknown", "unknown"]) == [*ids, None, None]
    assert tokenizer.convert_tokens_to_ids("<|extra_0|>") == PAD
    assert tokenizer.convert_ids_to_tokens(ids) == [b"ab", b"x", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(np.int64(ord("x"))) == b"x"
    assert tokenizer.convert_ids_to_tokens([PAD, ord("x")], skip_special_tokens=True) == [b"x"]
    with pytest.raises(ValueError, match="unknown ids"):
        tokenizer.convert_ids_to_tokens(SMALL_N + 208)


def test_tokens_become_a_string_with_characters_joined_over_tokens(tokenizer: QWenTokenizer) -> None:
    tokens = [b"\xe4", b"\xbd\xa0", "<|im_end|>", b"\xe4", "<|im_end|>", b"x"]
    assert tokenizer.convert_tokens_to_string(tokens) == "你<|im_end|>\ufffd<|im_end|>x"
    with pytest.raises(TypeError, match="bytes or str, not int"):
        tokenizer.convert_tokens_to_string([1])  # type: ignore[list-item]


def test_sizes_and_vocabulary(tokenizer: QWenTokenizer) -> None:
    assert len(tokenizer) == tokenizer.vocab_size == SMALL_N + 208
    assert tokenizer.get_vocab() == tokenizer.mergeable_ranks == SMALL_RANKS
    assert tokenizer.tokenizer.n_vocab == SMALL_N + 208
    assert tokenizer.special_tokens["<|im_start|>"] == tokenizer.im_start_id


def test_roles_are_empty_unless_given(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (None,) * 4
    assert tokenizer.all_special_tokens == []


def test_roles_are_given_by_token_or_by_id(tokenizer: QWenTokenizer) -> None:
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|extra_0|>", PAD)
    tokenizer.pad_token_id = tokenizer.eod_id
    assert tokenizer.pad_token == "<|endoftext|>"
    tokenizer.eos_token = "<|im_end|>"
    assert tokenizer.special_tokens_map == {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    assert tokenizer.all_special_ids == [tokenizer.eod_id, tokenizer.im_end_id]
    tokenizer.eos_token = None
    assert tokenizer.eos_token_id is None


def test_nothing_can_be_added_to_the_vocabulary(tokenizer: QWenTokenizer) -> None:
    added_token = SimpleNamespace(content="<|extra_1|>")
    assert tokenizer.add_special_tokens({"eos_token": "<|endoftext|>", "additional_special_tokens": [added_token]}) == 0
    assert tokenizer.eos_token_id == tokenizer.eod_id
    assert tokenizer.add_tokens("<|extra_1|>", special_tokens=True) == 0
    with pytest.raises(ValueError, match="Adding unknown special tokens is not supported"):
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(ValueError, match="Adding regular tokens is not supported"):
        tokenizer.add_tokens(["word"])
    with pytest.raises(SettingError, match="'mask_token' is not a token role"):
        tokenizer.add_special_tokens({"mask_token": "<|extra_0|>"})


def test_an_unknown_padding_token_is_refused_at_load(directory: Path) -> None:
    with pytest.raises(ValueError, match="Adding unknown special tokens is not supported"):
        AutoTokenizer.from_pretrained(directory, pad_token="[PAD]")


def test_a_saved_tokenizer_loads_with_its_settings(tokenizer: QWenTokenizer, tmp_path: Path) -> None:
    tokenizer.padding_side, tokenizer.model_max_length = "left", 77
    files = tokenizer.save_pretrained(tmp_path / "new" / "place")
    assert all(Path(file).is_file() for file in files)
    copy = AutoTokenizer.from_pretrained(tmp_path / "new" / "place")
    assert (copy.padding_side, copy.model_max_length, copy.pad_token_id) == ("left", 77, PAD)
    assert copy.encode("abx<|im_end|>") == tokenizer.encode("abx<|im_end|>")


def test_save_vocabulary_merges_the_extra_vocabulary(directory: Path, tmp_path: Path) -> None:
    (directory / "extra").write_bytes(tiktoken_line(b"xyz", SMALL_N + 208))
    (tmp_path / "saved").mkdir()
    (path,) = AutoTokenizer.from_pretrained(directory, extra_vocab_file=directory / "extra").save_vocabulary(
        tmp_path / "saved"
    )
    assert path == str(tmp_path / "saved" / "qwen.tiktoken")
    assert QWenTokenizer(path).encode("xyz") == [SMALL_N + 208]


def test_a_pickled_tokenizer_is_the_same(tokenizer: QWenTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy(["x", "你好"], padding=True) == tokenizer(["x", "你好"], padding=True)


def test_tokenizer_config_is_honoured_and_arguments_win(directory: Path) -> None:
    config = {"model_max_length": 32768, "padding_side": "left", "pad_token": {"content": "<|extra_1|>"}, "other": 1}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="right")
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (32768, "right")
    assert tokenizer.pad_token == "<|extra_1|>"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "\xff",
        '{"model_max_length": -1}',
        '{"model_max_length": Infinity}',
        '{"padding_side": []}',
        '{"errors": 1}',
        '{"pad_token": "[PAD]"}',
        "[" * 200_000,
    ],
)
def test_a_broken_tokenizer_config_is_a_checkpoint_error(directory: Path, content: str) -> None:
    (directory / "tokenizer_config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize(
    ("argument", "hint"), [("pad_tokn", "did you mean 'pad_token'"), ("vocab", "known arguments: pad_token, eos_token")]
)
def test_an_unknown_argument_is_refused_with_what_to_do(directory: Path, argument: str, hint: str) -> None:
    with pytest.raises(SettingError, match=f"from_pretrained has no argument '{argument}'; .*{hint}"):
        AutoTokenizer.from_pretrained(directory, **{argument: "x"})


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"cache_dir": "x"}, "cache_dir is not supported .*HF_HUB_CACHE"),
        ({"force_download": True}, "qwartet pull"),
        ({"token": "x"}, "HF_TOKEN"),
        ({"use_auth_token": "x"}, "HF_TOKEN"),
        ({"proxies": {"https": "x"}}, "HTTPS_PROXY"),
        ({"subfolder": "x"}, "pass the directory itself"),
    ],
)
def test_an_argument_of_downloads_that_would_matter_is_refused_for_a_hub_id(arguments: dict, hint: str) -> None:
    with pytest.raises(SettingError, match=hint):
        AutoTokenizer.from_pretrained("Qwen/Qwen-7B-Chat", **arguments)


def test_arguments_of_downloads_mean_nothing_for_a_directory(directory: Path) -> None:
    arguments = {"cache_dir": "x", "resume_download": True, "local_files_only": True, "revision": "main", "token": "x"}
    assert len(AutoTokenizer.from_pretrained(directory, **arguments, force_download=True, proxies={})) == SMALL_N + 208
    with pytest.raises(SettingError, match=r"revision is 'v1\.0', but .* is a directory"):
        AutoTokenizer.from_pretrained(directory, revision="v1.0")


def test_there_is_one_tokenizer_whatever_use_fast_and_trust_remote_code_say(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True, use_fast=False)
    assert isinstance(tokenizer, QWenTokenizer)
    assert tokenizer.model_max_length == NO_LIMIT


def test_a_directory_without_a_vocabulary_is_a_vocabulary_error(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"no \.tiktoken file"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_a_name_that_is_no_directory_is_resolved_by_the_hub(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve(name: str, *, revision: str | None, download: bool) -> Path:
        asked.append((revision, download))
        return {"Qwen/Qwen-72B-Chat-Int4": directory}[name]

    hub = ModuleType("qwartet.hub.resolve")
    hub.resolve = resolve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "qwartet.hub.resolve", hub)
    monkeypatch.setattr("qwartet.hub.resolve", hub, raising=False)
    name = "Qwen/Qwen-72B-Chat-Int4"
    assert len(AutoTokenizer.from_pretrained(name)) == SMALL_N + 208
    AutoTokenizer.from_pretrained(name, revision="v1.0", local_files_only=True, token=True, cache_dir=None)
    assert asked == [(None, True), ("v1.0", False)]


def test_sides_that_do_not_exist_are_refused_however_they_are_set(tokenizer: QWenTokenizer, directory: Path) -> None:
    for side in ("padding_side", "truncation_side"):
        with pytest.raises(SettingError, match=f"{side} is 'top'"):
            AutoTokenizer.from_pretrained(directory, **{side: "top"})
    tokenizer.padding_side = "top"
    with pytest.raises(SettingError, match="padding_side is 'top'"):
        tokenizer(["x", "xyz"], padding=True)


def test_truncation_cuts_the_side_that_is_asked_for(tokenizer: QWenTokenizer) -> None:
    tokenizer.truncation_side = "left"
    assert tokenizer("xyz", truncation=True, max_length=2).input_ids == [*b"yz"]
    assert tokenizer.encode("xyz", truncation="only_first", max_length=1, add_special_tokens=False) == [*b"z"]
    assert tokenizer("xyz", truncation=True, max_length=0).input_ids == []
    for wrong in ({"truncation": "half", "max_length": 2}, {"truncation": True, "max_length": -1}):
        with pytest.raises(SettingError, match=r"truncation is 'half'|max_length is -1"):
            tokenizer("xyz", **wrong)


def test_arrays_and_multiples_and_what_is_left_out(tokenizer: QWenTokenizer) -> None:
    batch = tokenizer(["x", "xyz"], padding=True, pad_to_multiple_of=4, return_tensors="np")
    assert batch.input_ids.shape == (2, 4) and batch.input_ids.dtype.name == "int64"
    assert list(tokenizer("x", return_attention_mask=False, return_token_type_ids=False)) == ["input_ids"]


@pytest.mark.parametrize("text", [None, 5, b"x", ["x", None], {"x"}])
def test_what_is_no_text_is_refused(tokenizer: QWenTokenizer, text: object) -> None:
    with pytest.raises(SettingError, match="takes a text or a list of texts"):
        tokenizer(text)  # type: ignore[arg-type]


TALK = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "x<|im_end|>"},
    {"role": "assistant", "content": "y"},
    {"role": "user", "content": "z"},
]


def test_a_chat_template_is_what_chat_builds(tokenizer: QWenTokenizer) -> None:
    ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True)
    turns = [("x<|im_end|>", "y")]
    assert ids == make_context(tokenizer.core, "z", turns, system="s").ids
    assert ids.count(tokenizer.im_end_id) == 4, "a special token in a content is text"
    without = tokenizer.apply_chat_template(TALK)
    assert without == [*ids[: len(without) - 1], ord("\n")]
    assert tokenizer.apply_chat_template(TALK[3:], add_generation_prompt=True) == (
        make_context(tokenizer.core, "z", system="You are a helpful assistant.").ids
    )


def test_a_chat_template_as_text_as_tensor_and_of_several_conversations(tokenizer: QWenTokenizer) -> None:
    text = tokenizer.apply_chat_template(TALK[:1] + TALK[3:], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nz<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(TALK[:1] + TALK[3:], add_generation_prompt=True, return_tensors="pt")
    assert ids.tolist() == [tokenizer.encode(text)]
    both = tokenizer.apply_chat_template([TALK, TALK[:1]], padding=True, return_tensors="pt", return_dict=True)
    assert both.input_ids.shape == both.attention_mask.shape and both.attention_mask[1].sum() < both.input_ids.shape[1]
    assert tokenizer.apply_chat_template([TALK, TALK[:1]], tokenize=False)[1] == "<|im_start|>system\ns<|im_end|>\n"


@pytest.mark.parametrize(
    ("conversation", "settings", "message"),
    [
        ([], {}, "the conversation is"),
        ("hi", {}, "the conversation is 'hi'"),
        ([("q", "a")], {}, "message 1 is 'q'"),
        ([{"role": "user"}], {}, "message 1 is {'role'"),
        ([{"role": "tool", "content": "x"}], {}, "role is 'tool'"),
        (TALK, {"chat_template": "{{ x }}"}, "does not support chat_template"),
        (TALK, {"tools": [{}]}, "does not support tools"),
    ],
)
def test_a_chat_template_refuses_what_it_has_no_form_for(
    tokenizer: QWenTokenizer, conversation: object, settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer.apply_chat_template(conversation, **settings)
