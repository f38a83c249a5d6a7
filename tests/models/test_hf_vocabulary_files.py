"""Tokenizer files of a Qwen2 or Qwen3: which are read, and what is refused about them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library

from qwartet.errors import CheckpointError, CheckpointWarning, VocabularyError
from qwartet.models.generation_config import load_generation_defaults
from qwartet.models.hf_vocabulary_files import has_hf_tokenizer, load_hf_tokenizer
from qwartet.tokenizer.hf_tokenizer import HfTokenizer
from tests.tokenizer.hf_files import small_content, write_tokenizer
from tests.tokenizer.vocabularies import SMALL_N

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


def loaded(directory: Path) -> HfTokenizer:
    tokenizer = load_hf_tokenizer(directory)
    assert tokenizer is not None
    return tokenizer


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    """The small tokenizer.json, changed."""
    content = json.loads(small_content())
    change(content)
    return json.dumps(content)


def model(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["model"].update(values)


def added(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["added_tokens"][1].update(values)


def split(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["pre_tokenizer"]["pretokenizers"][0].update(values)


def test_a_directory_without_files_has_no_tokenizer(tmp_path: Path) -> None:
    assert not has_hf_tokenizer(tmp_path) and load_hf_tokenizer(tmp_path) is None
    (tmp_path / "vocab.json").write_text("{}")
    assert not has_hf_tokenizer(tmp_path)


def test_tokenizer_json_is_read_with_the_tokens_that_other_files_add(tmp_path: Path) -> None:
    more = {"id": SMALL_N + 9, "content": "<|fim_pad|>", "special": True}
    decoder = {str(SMALL_N + 1): {"content": "<|im_start|>", "special": True}, str(SMALL_N + 9): more}
    write_tokenizer(tmp_path, small_content(), added_tokens_decoder=decoder)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<note>": SMALL_N + 10}))
    tokenizer = loaded(tmp_path)
    assert tokenizer.encode("<|fim_pad|><note>", allowed_special="all") == [SMALL_N + 9, SMALL_N + 10]
    assert [tokenizer.is_special(SMALL_N + place) for place in (9, 10)] == [True, False]
    assert tokenizer.num_tokens == SMALL_N + 11


def test_the_older_files_give_the_same_ids(tmp_path: Path) -> None:
    content = json.loads(small_content())
    write_tokenizer(tmp_path / "new", small_content())
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(content["model"]["vocab"]), encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in content["model"]["merges"])
    (old / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    decoder = {str(token["id"]): token for token in content["added_tokens"]}
    settings = {"added_tokens_decoder": decoder, "eos_token": "<|endoftext|>"}
    (old / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    first, second = loaded(tmp_path / "new"), loaded(old)
    assert first.has_ids_of(second)
    text = "abcd 你好 <|im_end|> ab  \n\n  cd"
    assert first.encode(text, allowed_special="all") == second.encode(text, allowed_special="all")
    assert second.turn_ids[0] == second.eod_id


def test_merges_written_as_text_are_read(tmp_path: Path) -> None:
    content = changed(lambda found: found["model"].update(merges=[" ".join(m) for m in found["model"]["merges"]]))
    write_tokenizer(tmp_path, content)
    assert loaded(tmp_path).encode("abcd") == Library.from_str(small_content()).encode("abcd").ids


@pytest.mark.parametrize("given", [None, {"type": "Sequence", "normalizers": []}])
def test_a_tokenizer_without_normaliser_does_not_normalise(given: Any, tmp_path: Path) -> None:
    content = changed(lambda found: found.update(normalizer=given))
    tokenizer = loaded(write_tokenizer(tmp_path, content))
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "e\u0301"
    assert tokenizer.encode("e\u0301") == Library.from_str(content).encode("e\u0301").ids


REFUSED = [
    (model(type="Unigram"), "model.type is 'Unigram'"),
    (model(type="WordPiece"), "model.type is 'WordPiece'"),
    (model(byte_fallback=True), "model.byte_fallback"),
    (model(dropout=0.1), "model.dropout"),
    (model(end_of_word_suffix="</w>"), "model.end_of_word_suffix"),
    (model(vocab={}), "the vocabulary is empty"),
    (model(vocab=["a"]), "vocab is .'a'.; it must be an object"),
    (model(vocab={"a": 0}), "255 of the 256 single bytes"),
    (model(merges={"a": "b"}), "merges is .*; it must be a list"),
    (model(merges=["a"]), "merge 1 is 'a'; it must be two tokens"),
    (model(merges=[["a", "b", "c"]]), "merge 1 is"),
    (model(merges=[["a", 1]]), "merge 1 is"),
    (model(merges=[["z", "z"]]), "merge 1 is of 'z' and 'z', but 'zz' is not in the vocabulary"),
    (lambda content: content["model"]["merges"].append(["a", "b"]), "a merge is listed twice"),
    (lambda content: content["model"]["vocab"].update(ab=-1), "has the id -1"),
    (lambda content: content["model"]["vocab"].update(ab="7"), "has the id '7'"),
    (lambda content: content["model"]["vocab"].update(ab=True), "has the id True"),
    (lambda content: content["model"]["vocab"].update(ab=2**40), "has the id 1099511627776"),
    (lambda content: content["model"]["vocab"].update(ab=3), "both have the id 3"),
    (lambda content: content["model"]["vocab"].update({"\u4f60": 9999}), "not written in the byte-level alphabet"),
    (lambda content: content["model"]["vocab"].update({"a" * 5000: 9999}), "not written in the byte-level alphabet"),
    (lambda content: content.pop("model"), "model is missing"),
    (lambda content: content.pop("added_tokens"), "added_tokens is missing"),
    (lambda content: content.update(added_tokens=[7]), "an added token is 7"),
    (lambda content: content.update(decoder={"type": "Metaspace"}), "decoder is"),
    (lambda content: content.update(normalizer={"type": "Lowercase"}), "normalizer is"),
    (lambda content: content.update(pre_tokenizer=None), "pre_tokenizer is missing"),
    (lambda content: content.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer is"),
    (split(pattern={"Regex": "(a+)+$"}), r"the pattern of pre_tokenizer is .*\(a\+\)\+"),
    (split(pattern={"String": " "}), "the pattern of pre_tokenizer is"),
    (split(behavior="Removed"), "pre_tokenizer splits with 'Removed'"),
    (split(invert=True), "invert True"),
    (added(id="7"), "has the id '7'"),
    (added(id=2**40), "has the id 1099511627776"),
    (added(content=None), "the content None"),
    (added(content=""), "has 0 characters"),
    (added(content="x" * 5000), "has 5000 characters"),
    (added(lstrip=True), "sets lstrip"),
    (added(lstrip="yes"), "lstrip is 'yes'; it must be true or false"),
    (added(special="yes"), "special is 'yes'; it must be true or false"),
    (added(normalized=1), "normalized is 1; it must be true or false"),
    (added(content="\ud800"), "is not valid Unicode"),
    (model(ignore_merges=1), "ignore_merges is 1; it must be true or false"),
    (split(invert="no"), "invert is 'no'; it must be true or false"),
    (added(single_word=True), "sets single_word"),
    (added(content="<|im_end|>"), "the added token '<.im_end.>' has the ids"),
    (added(id=SMALL_N), "is that of '<.endoftext.>' and of '<.im_start.>'"),
    (added(id=5), "has the id 5, and the vocabulary says otherwise"),
    (added(content="ab"), "has the id .*, and the vocabulary says otherwise"),
    (
        lambda content: content.update(added_tokens=[{"id": 9000 + n, "content": f"<{n}>"} for n in range(5000)]),
        "has 5000 added tokens",
    ),
]


@pytest.mark.parametrize(("change", "reason"), REFUSED)
def test_another_or_a_broken_tokenizer_is_refused(change: Callable[..., Any], reason: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, changed(change))
    with pytest.raises(VocabularyError, match=reason) as caught:
        load_hf_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "does not hold a JSON object"),
        (b'{"model": ', "is not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html>", "looks like a web page"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"a": 1, "a": 2}', "appears twice"),
        (b"\xff\xfe\x00", "is not valid JSON"),
    ],
)
def test_a_file_that_is_no_json_object_is_a_vocabulary_error(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(VocabularyError, match=reason):
        load_hf_tokenizer(tmp_path)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, small_content())
    num_tokens = loaded(tmp_path).num_tokens
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": num_tokens}))
    assert loaded(tmp_path).num_tokens == num_tokens
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": num_tokens - 1}))
    with pytest.raises(VocabularyError, match=f"has {num_tokens} tokens, but vocab_size in config.json is"):
        load_hf_tokenizer(tmp_path)


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, small_content(), added_tokens_decoder={str(SMALL_N): {"content": "<|other|>"}})
    with pytest.raises(VocabularyError, match="belong to different models"):
        load_hf_tokenizer(tmp_path)
    write_tokenizer(tmp_path, small_content(), added_tokens_decoder={"x": {"content": "<|other|>"}})
    with pytest.raises(VocabularyError, match="added_tokens_decoder is not an object with ids as keys"):
        load_hf_tokenizer(tmp_path)
    write_tokenizer(tmp_path, small_content(), eos_token="<|nowhere|>")
    with pytest.raises(VocabularyError, match=r"names the token '<.nowhere.>', which is not in it"):
        load_hf_tokenizer(tmp_path)


def test_the_file_at_fault_is_named_of_the_older_two(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": {"b": 1}}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(VocabularyError, match=r"vocab\.json: token 'a' has the id"):
        load_hf_tokenizer(tmp_path)


def test_merges_that_are_cut_short_are_told(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, changed(lambda content: content["model"]["merges"].pop(0)))
    with pytest.warns(
        CheckpointWarning, match=r"no merge makes 1 of the \d+ tokens, such as 'ab'; if merges are missing"
    ):
        load_hf_tokenizer(tmp_path)
    write_tokenizer(tmp_path, changed(lambda content: content["model"].update(merges=[], ignore_merges=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded(tmp_path)


@pytest.mark.parametrize("key", ["eos_token", "bos_token", "pad_token", "unk_token"])
@pytest.mark.parametrize("value", [7, True, [], ["<|im_end|>"], {}, {"content": None}])
def test_a_named_token_is_a_text(key: str, value: object, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, small_content(), **{key: value})
    with pytest.raises(
        VocabularyError, match=rf"tokenizer_config\.json: {key} is .*, which is not the text of a token"
    ):
        load_hf_tokenizer(tmp_path)


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
def test_more_special_tokens_are_texts_of_the_vocabulary(key: str, tmp_path: Path) -> None:
    tokens = ["<|im_start|>", {"content": "<|im_end|>"}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (tokens, {"start_token": "<|im_start|>"}, [], {}, None):
            write_tokenizer(tmp_path, small_content(), **{key: given})
            loaded(tmp_path)
    write_tokenizer(tmp_path, small_content(), bos_token="<|begin|>", **{key: [*tokens, "<|image|>"]})
    with pytest.warns(CheckpointWarning, match=r"2 tokens are not in the vocabulary .*: '<.begin.>', '<.image.>'"):
        assert loaded(tmp_path).encode("<|image|>") == list(b"<|image|>")
    for given in ("<|im_start|>", 7, [7], False):
        write_tokenizer(tmp_path, small_content(), **{key: given})
        with pytest.raises(VocabularyError, match=f"{key} is .*, which is not the text of a token"):
            load_hf_tokenizer(tmp_path)


@pytest.mark.parametrize("given", [False, 0, "", []])
def test_an_empty_value_of_another_kind_is_not_an_empty_object(given: object, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, small_content(), added_tokens_decoder=given)
    with pytest.raises(VocabularyError, match="added_tokens_decoder is not an object with ids as keys"):
        load_hf_tokenizer(tmp_path)


def test_a_special_token_that_ordinary_text_becomes_is_refused(tmp_path: Path) -> None:
    def make_ordinary(content: dict[str, Any]) -> None:
        content["added_tokens"][0] |= {"content": "abcd", "id": content["model"]["vocab"]["abcd"]}

    write_tokenizer(tmp_path, changed(make_ordinary), pad_token=None)
    with pytest.raises(VocabularyError, match="the special token 'abcd' is also what this text becomes"):
        load_hf_tokenizer(tmp_path)


def test_a_tokenizer_without_a_token_that_ends_a_text_is_refused(tmp_path: Path) -> None:
    content = changed(lambda found: found["added_tokens"].pop(0))
    write_tokenizer(tmp_path, content, eos_token=None, pad_token=None)
    with pytest.raises(VocabularyError, match=r"has no <\|endoftext\|>"):
        load_hf_tokenizer(tmp_path)


# Chat templates


def test_the_newest_place_of_a_template_is_used(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, small_content(), "old")
    assert loaded(tmp_path).jinja_template == "old"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "between"}')
    assert loaded(tmp_path).jinja_template == "between"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert loaded(tmp_path).jinja_template == "new"
    (tmp_path / "chat_template.json").unlink()
    (tmp_path / "chat_template.jinja").unlink()
    write_tokenizer(tmp_path, small_content())
    assert loaded(tmp_path).chat_template is None


def test_of_several_templates_the_one_for_tools_is_used_with_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    write_tokenizer(tmp_path, small_content(), named)  # type: ignore[arg-type]
    template = loaded(tmp_path).chat_template
    assert template is not None
    messages = [{"role": "user", "content": "hi"}]
    assert [template.render(messages), template.render(messages, [{"name": "f"}])] == ["plain", "with tools"]
    assert template.render(messages, []) == "plain"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for", "the chat template cannot be used: line 1"),
        ("a\n{{ 1 + }}", "the chat template cannot be used: line 2"),
        ("{% include 'x' %}", "include is not available"),
        ("{% extends 'x' %}", "extends is not available"),
        ("{% import 'x' as y %}", "import is not available"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "cannot be"),
        ("{{ " + "-" * 3000 + "1 }}", "cannot be"),
        ("x" * 300_000, "has 300000 characters"),
        (7, "chat_template is 7"),
        ([{"name": "default"}], "chat_template is"),
        ([{"name": ["default"], "template": "a"}], "chat_template is"),
        ([{"name": "default", "template": "a"}, {"name": {}, "template": "b"}], "chat_template is"),
        ([{"name": "default", "template": "a"}, {"name": "tool_use", "template": 7}], "chat_template is"),
        ([{"name": "rag", "template": "a"}], "chat_template is"),
        ({"default": "a"}, "chat_template is"),
    ],
)
def test_a_broken_template_is_a_checkpoint_error(template: Any, reason: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, small_content(), template)
    with pytest.raises(CheckpointError, match=reason):
        load_hf_tokenizer(tmp_path)


def test_without_its_broken_template_a_model_completes_text(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, small_content(), "{% for")
    write_configs(tmp_path, "qwen2")
    with pytest.raises(CheckpointError, match="replace it, or remove it to use the model without conversations"):
        load_hf_tokenizer(tmp_path)
    write_tokenizer(tmp_path, small_content())
    assert loaded(tmp_path).chat_template is None and load_generation_defaults(tmp_path).chat_format == "raw"


# Sampling defaults


def write_configs(directory: Path, model_type: str, **generation: Any) -> None:
    (directory / "config.json").write_text(json.dumps({"model_type": model_type, "eos_token_id": SMALL_N + 2}))
    (directory / "generation_config.json").write_text(json.dumps(generation))


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_a_chat_template_makes_a_chat_model(model_type: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, small_content(), TEMPLATE)
    eos = [SMALL_N + 2, SMALL_N]
    write_configs(
        tmp_path, model_type, do_sample=True, eos_token_id=eos, temperature=0.6, top_p=0.95, top_k=20,
        pad_token_id=SMALL_N, bos_token_id=SMALL_N, repetition_penalty=1.05, transformers_version="4.51.0",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        defaults = load_generation_defaults(tmp_path)
        assert defaults.is_chat and load_generation_defaults(tmp_path, "raw").is_chat is False
    assert (defaults.eos_token_ids, defaults.do_sample, defaults.top_k) == (tuple(eos), True, 20)
    assert (defaults.temperature, defaults.top_p, defaults.repetition_penalty) == (0.6, 0.95, 1.05)
    write_tokenizer(tmp_path, small_content())
    assert not load_generation_defaults(tmp_path).is_chat


def test_in_the_first_generation_a_template_says_nothing(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, small_content(), TEMPLATE)
    write_configs(tmp_path, "qwen")
    with pytest.warns(UserWarning, match="chat_format is missing"):
        assert load_generation_defaults(tmp_path).chat_format is None
