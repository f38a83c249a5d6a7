"""The tokenizer against the original's answers: ours, and the one with the card's interface."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from qwartet.compat.tokenization import QWenTokenizer
from qwartet.errors import RequestError
from qwartet.tokenizer.stream import TextStream
from tests.golden_data import golden_json, golden_jsonl, real_vocabulary
from tests.tokenizer.vocabularies import published_tokenizer


@cache
def card_tokenizer() -> QWenTokenizer:
    return QWenTokenizer(real_vocabulary())


def special_set(stored: Any) -> Any:
    """A set of special tokens from its golden form: a list, "all", or "none" for the empty set."""
    return stored if stored == "all" else () if stored == "none" else frozenset(stored)


def answer(function: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What a call gives, in golden form: a result, or the name and message of the exception."""
    try:
        return {"result": function(*args, **kwargs)}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


def golden_answer(case: dict[str, Any], key: str) -> dict[str, Any]:
    return {"result": case[key]} if "error" not in case else {"error": case["error"], "message": case["message"]}


def differing(cases: list[dict[str, Any]], is_same: Any) -> list[dict[str, Any]]:
    assert cases
    return [case for case in cases if not is_same(case)]


@pytest.mark.parametrize("tokenizer", [published_tokenizer, card_tokenizer])
def test_encode(tokenizer: Any) -> None:
    encode = tokenizer().encode
    cases = golden_jsonl("tokenizer/encode.jsonl")
    wrong = differing(cases, lambda c: encode(c["text"], allowed_special=special_set(c["allowed_special"])) == c["ids"])
    assert not wrong


@pytest.mark.parametrize("tokenizer", [published_tokenizer, card_tokenizer])
def test_encoded_text_decodes_as_the_original_does(tokenizer: Any) -> None:
    decode = tokenizer().decode
    cases = golden_jsonl("tokenizer/encode.jsonl")
    assert not differing(cases, lambda c: decode(c["ids"]) == c["decoded"])
    assert not differing(cases, lambda c: decode(c["ids"], skip_special_tokens=True) == c["decoded_skip_special"])


def test_encode_with_sets_of_special_tokens() -> None:
    def is_same(case: dict[str, Any]) -> bool:
        sets = {key: special_set(case[key]) for key in ("allowed_special", "disallowed_special")}
        return answer(card_tokenizer().encode, case["text"], **sets) == golden_answer(case, "ids")

    assert not differing(golden_jsonl("tokenizer/encode_special_sets.jsonl"), is_same)


def test_our_own_tokenizer_refuses_the_same_special_tokens() -> None:
    for case in golden_jsonl("tokenizer/encode_special_sets.jsonl"):
        sets = {key: special_set(case[key]) for key in ("allowed_special", "disallowed_special")}
        if "error" in case:
            with pytest.raises(RequestError) as caught:
                published_tokenizer().encode(case["text"], **sets)
            assert str(caught.value) == case["message"]
        else:
            assert published_tokenizer().encode(case["text"], **sets) == case["ids"]


def test_decode() -> None:
    def is_same(case: dict[str, Any]) -> bool:
        return answer(card_tokenizer().decode, case["ids"], **case["kwargs"]) == golden_answer(case, "text")

    assert not differing(golden_jsonl("tokenizer/decode.jsonl"), is_same)


def test_our_own_tokenizer_decodes_alike_but_refuses_bad_ids_in_its_own_words() -> None:
    for case in golden_jsonl("tokenizer/decode.jsonl"):
        ids = [case["ids"]] if isinstance(case["ids"], int) else case["ids"]
        if "error" in case or any(token_id >= published_tokenizer().num_tokens for token_id in ids):
            continue  # tests/tokenizer/test_tokenizer.py
        assert published_tokenizer().decode(ids, **case["kwargs"]) == case["text"], case


def test_streamed_text_is_the_originals_at_every_step() -> None:
    for case in golden_jsonl("tokenizer/stream_decode.jsonl"):
        stream = TextStream(published_tokenizer(), errors="ignore")
        text, cumulative = "", []
        for token_id in case["ids"]:
            text += stream.push(token_id)
            cumulative.append(text)
        assert cumulative == case["cumulative"], case["ids"]


def test_batch_call() -> None:
    case = golden_json("tokenizer/batch_call.json")
    tokenizer = QWenTokenizer(
        real_vocabulary(), pad_token=case["pad_token"], padding_side=case["padding_side"], eos_token="<|endoftext|>"
    )
    assert tokenizer.pad_token_id == case["pad_token_id"]
    assert tokenizer(case["texts"], padding="longest") == case["output"]


def test_vocabulary_facts() -> None:
    facts = golden_json("tokenizer/vocab_facts.json")
    tokenizer = card_tokenizer()
    assert len(tokenizer) == facts["len"]
    for name in ("vocab_size", "eod_id", "im_start_id", "im_end_id"):
        assert getattr(tokenizer, name) == facts[name]
    for entry in facts["tokens"]:
        token = bytes.fromhex(entry["token_hex"]) if entry["token_str"] is None else entry["token_str"]
        assert tokenizer.convert_ids_to_tokens(entry["id"]) == token
        assert tokenizer.convert_tokens_to_ids(token) == entry["id"]
    unknown = facts["unknown_id"]
    assert answer(tokenizer.convert_ids_to_tokens, unknown["id"]) == golden_answer(unknown, "token")
