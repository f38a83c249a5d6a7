"""ChatML against the original's make_context, decode_tokens and stop words."""

from __future__ import annotations

from qwartet.tokenizer.chatml import decode_tokens, make_context, stop_words_ids
from tests.golden_data import golden_json, golden_jsonl
from tests.tokenizer.vocabularies import published_tokenizer


def test_make_context() -> None:
    arguments = ("query", "history", "system", "max_window_size", "chat_format")
    for case in golden_jsonl("tokenizer/make_context.jsonl"):
        context = make_context(published_tokenizer(), **{name: case[name] for name in arguments})
        assert context.raw_text == case["raw_text"], case
        assert context.ids == case["ids"], case
        assert context.turns_kept == case["history_turns_kept"], case


def test_decode_tokens() -> None:
    arguments = ("tokens", "raw_text_len", "context_length", "chat_format", "errors")
    for case in golden_jsonl("tokenizer/decode_tokens.jsonl"):
        answer = decode_tokens(published_tokenizer(), **{name: case[name] for name in arguments})
        assert answer == (case["text"], case["end_reason"]), case


def test_stop_words_ids() -> None:
    for chat_format, ids in golden_json("tokenizer/stop_words_ids.json").items():
        assert stop_words_ids(published_tokenizer(), chat_format) == ids
