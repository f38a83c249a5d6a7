"""The tokenizer in transformers: the original's answers, and what transformers and its tools expect of one."""

from __future__ import annotations

import copy
import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch

from qwartet import DEMO
from qwartet.errors import CheckpointError, SettingError, VocabularyError
from tests.golden.test_tokenizer import answer, differing, golden_answer, special_set
from tests.golden_data import golden_json, golden_jsonl, real_vocabulary
from tests.hf.loaded import QWenTokenizer, transformers

CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "x<|im_end|>"},
    {"role": "assistant", "content": "y"},
    {"role": "user", "content": "z"},
]


@cache
def published() -> QWenTokenizer:
    return QWenTokenizer(real_vocabulary())


@pytest.fixture
def tokenizer() -> QWenTokenizer:
    return transformers.AutoTokenizer.from_pretrained(DEMO)


# The original's answers


def test_texts_get_the_originals_ids() -> None:
    def is_same(case: dict[str, Any]) -> bool:
        allowed = special_set(case["allowed_special"])
        tokens = published().tokenize(case["text"], allowed_special=allowed)
        return (
            published().encode(case["text"], allowed_special=allowed) == case["ids"]
            and published()(case["text"], allowed_special=allowed)["input_ids"] == case["ids"]
            and published().convert_tokens_to_ids(tokens) == case["ids"]
        )

    assert not differing(golden_jsonl("tokenizer/encode.jsonl"), is_same)


def test_ids_get_the_originals_texts() -> None:
    cases = golden_jsonl("tokenizer/encode.jsonl")
    assert not differing(cases, lambda c: published().decode(c["ids"]) == c["decoded"])
    skipped = published().batch_decode([case["ids"] for case in cases], skip_special_tokens=True)
    assert skipped == [case["decoded_skip_special"] for case in cases]
    decodes = golden_jsonl("tokenizer/decode.jsonl")
    assert not differing(
        decodes, lambda c: answer(published().decode, c["ids"], **c["kwargs"]) == golden_answer(c, "text")
    )


def test_sets_of_special_tokens_are_the_originals() -> None:
    def is_same(case: dict[str, Any]) -> bool:
        sets = {key: special_set(case[key]) for key in ("allowed_special", "disallowed_special")}
        told, wanted = answer(published().encode, case["text"], **sets), golden_answer(case, "ids")
        if "error" in wanted:  # ours is a ValueError too
            return issubclass(RequestErrorOrOurs, ValueError) and told["message"] == wanted["message"]
        return told == wanted

    from qwartet.errors import RequestError as RequestErrorOrOurs

    assert not differing(golden_jsonl("tokenizer/encode_special_sets.jsonl"), is_same)


def test_a_padded_batch_is_the_originals() -> None:
    case = golden_json("tokenizer/batch_call.json")
    tokenizer = QWenTokenizer(
        real_vocabulary(), pad_token=case["pad_token"], padding_side=case["padding_side"], eos_token="<|endoftext|>"
    )
    assert tokenizer.pad_token_id == case["pad_token_id"]
    assert dict(tokenizer(case["texts"], padding="longest")) == case["output"]


def test_vocabulary_facts_are_the_originals() -> None:
    facts, tokenizer = golden_json("tokenizer/vocab_facts.json"), published()
    assert len(tokenizer) == facts["len"]
    for name in ("vocab_size", "eod_id", "im_start_id", "im_end_id"):
        assert getattr(tokenizer, name) == facts[name]
    for entry in facts["tokens"]:
        token = bytes.fromhex(entry["token_hex"]) if entry["token_str"] is None else entry["token_str"]
        assert tokenizer.convert_ids_to_tokens(entry["id"]) == token
        assert tokenizer.convert_tokens_to_ids(token) == entry["id"]
    unknown = facts["unknown_id"]
    assert answer(tokenizer.convert_ids_to_tokens, unknown["id"]) == golden_answer(unknown, "token")


# What transformers expects


def test_it_is_a_tokenizer_of_transformers(tokenizer: QWenTokenizer) -> None:
    assert type(tokenizer) is QWenTokenizer and isinstance(tokenizer, transformers.PreTrainedTokenizer)
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.eos_token_id == tokenizer.eod_id
    assert tokenizer.pad_token is None and tokenizer.bos_token is None and tokenizer.unk_token is None
    assert tokenizer.all_special_ids == [tokenizer.eod_id] and not tokenizer.is_fast
    both = tokenizer("ab", "cd")
    assert both["input_ids"] == tokenizer("ab")["input_ids"] + tokenizer("cd")["input_ids"]
    assert both["token_type_ids"] == [0] * len(both["input_ids"])
    assert tokenizer("a b c d e f", truncation=True, max_length=2)["input_ids"] == tokenizer.encode("a b c d e f")[:2]
    assert tokenizer("x<|im_end|>", split_special_tokens=True)["input_ids"][-1] != tokenizer.im_end_id


def test_roles_are_only_for_the_published_special_tokens(tokenizer: QWenTokenizer) -> None:
    tokenizer.pad_token = "<|extra_0|>"
    assert tokenizer.pad_token_id == tokenizer.special_tokens["<|extra_0|>"]
    tokenizer.pad_token_id = tokenizer.eod_id
    assert tokenizer.pad_token == "<|endoftext|>"
    batch = tokenizer(["a", "a b c"], padding=True, return_tensors="pt")
    assert batch["attention_mask"].tolist()[0] == [1, 0, 0] and batch["input_ids"].shape == (2, 3)
    for wrong in (
        lambda: setattr(tokenizer, "pad_token", "<pad>"),
        lambda: tokenizer.add_special_tokens({"pad_token": "[PAD]"}),
        lambda: tokenizer.add_tokens(["new"]),
        lambda: transformers.AutoTokenizer.from_pretrained(DEMO, unk_token="<unk>"),
    ):
        with pytest.raises(ValueError, match=r"Adding .* is not supported"):
            wrong()
    assert tokenizer.add_special_tokens({"bos_token": "<|im_start|>"}) == 0 and len(tokenizer) == 4304


def test_it_is_saved_copied_and_pickled(tokenizer: QWenTokenizer, tmp_path: Path) -> None:
    tokenizer.pad_token, tokenizer.padding_side = "<|extra_1|>", "left"
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "qwen.tiktoken").read_bytes() == (DEMO / "qwen.tiktoken").read_bytes()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "QWenTokenizer"
    assert "auto_map" not in (tmp_path / "tokenizer_config.json").read_text()
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for other in (again, copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert (other.pad_token, other.padding_side, other.model_max_length) == ("<|extra_1|>", "left", 2048)
        assert other("你好 hello") == tokenizer("你好 hello") and other.chat_template == tokenizer.chat_template


def test_an_extra_vocabulary_is_read_and_saved(tokenizer: QWenTokenizer, tmp_path: Path) -> None:
    first = len(tokenizer)
    extra = tmp_path / "extra.tiktoken"
    extra.write_bytes(b"eHl6enk= %d\n" % first)  # xyzzy
    longer = transformers.AutoTokenizer.from_pretrained(DEMO, extra_vocab_file=str(extra))
    assert len(longer) == first + 1 and longer.encode("xyzzy") == [first] != tokenizer.encode("xyzzy")
    longer.save_pretrained(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.encode("xyzzy") == [first]


def test_a_checkpoint_cannot_name_a_file_outside_it(tokenizer: QWenTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "outside.tiktoken").write_bytes(b"eHl6enk= %d\n" % len(tokenizer))
    config = tmp_path / "model" / "tokenizer_config.json"
    content = json.loads(config.read_text())
    for name in ("../outside.tiktoken", str(tmp_path / "outside.tiktoken")):
        config.write_text(json.dumps({**content, "extra_vocab_file": name}))
        with pytest.raises(CheckpointError, match=r"outside.tiktoken is not in the directory"):
            transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    config.write_text(json.dumps({**content, "vocab_file": str(tmp_path / "outside.tiktoken")}))
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "model")) == len(tokenizer)
    (tmp_path / "model" / "qwen.tiktoken").unlink()
    with pytest.raises(VocabularyError, match=r"holds no qwen.tiktoken|not in the directory"):
        config.write_text(json.dumps(content))
        transformers.AutoTokenizer.from_pretrained(tmp_path / "model")


# Conversations


def test_a_template_inserts_markers_that_no_content_can(tokenizer: QWenTokenizer) -> None:
    encoding = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)
    ids = encoding["input_ids"]
    assert ids.count(tokenizer.im_end_id) == 4, "a special token in a content is text"
    assert set(encoding) == {"input_ids", "token_type_ids", "attention_mask"}
    assert tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False) == ids
    tensors = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")
    assert tensors["input_ids"].tolist() == [ids]
    plain = [{**message, "content": message["content"].replace("<|im_end|>", "")} for message in CHAT]
    for begins in (True, False):
        text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=begins)
        assert tokenizer.encode(text) == tokenizer.apply_chat_template(plain, add_generation_prompt=begins)["input_ids"]
        template = jinja2.Template(tokenizer.chat_template)
        assert text == template.render(messages=plain, add_generation_prompt=begins)


def test_several_conversations_an_answer_that_goes_on_and_parts(tokenizer: QWenTokenizer) -> None:
    tokenizer.pad_token, tokenizer.padding_side = "<|extra_0|>", "left"
    both = tokenizer.apply_chat_template([CHAT, CHAT[:1]], padding=True, return_tensors="pt")
    assert both["input_ids"].shape == both["attention_mask"].shape and both["attention_mask"][1, 0] == 0
    assert isinstance(both["input_ids"], torch.Tensor)
    texts = tokenizer.apply_chat_template([CHAT, CHAT[:1]], tokenize=False)
    assert texts[1] == "<|im_start|>system\ns<|im_end|>"
    open_end = [*CHAT, {"role": "assistant", "content": "It is"}]
    text = tokenizer.apply_chat_template(open_end, tokenize=False, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\nIt is")
    ids = tokenizer.apply_chat_template(open_end, continue_final_message=True)["input_ids"]
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\nIt is")
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    whole = [{"role": "user", "content": "ab"}]
    assert tokenizer.apply_chat_template(parts) == tokenizer.apply_chat_template(whole)


def test_another_template_is_rendered_by_transformers(tokenizer: QWenTokenizer) -> None:
    template = "{% for message in messages %}[{{ message.content }}]{% endfor %}"
    assert tokenizer.apply_chat_template(CHAT[3:], chat_template=template, tokenize=False) == "[z]"
    tokenizer.chat_template = template
    assert tokenizer.apply_chat_template(CHAT[3:])["input_ids"] == tokenizer.encode("[z]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tools": [{"type": "function"}]}, "does not support tools"),
        ({"documents": [{"text": "x"}]}, "does not support documents"),
        ({"return_assistant_tokens_mask": True}, "return_assistant_tokens_mask is not supported"),
        ({"continue_final_message": True}, "needs a last message of the assistant"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "pass one"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused(
    tokenizer: QWenTokenizer, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        tokenizer.apply_chat_template(CHAT, **arguments)
