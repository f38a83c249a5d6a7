"""Files of preferences: forms, what is compared, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwartet import DEMO
from qwartet.errors import DataError, DataWarning
from qwartet.finetune.preferences import Preference, encode_pairs, read_preferences
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer

USER, GOOD, BAD = {"role": "user", "content": "2 + 2?"}, "4", "5"


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def written(tmp_path: Path, *entries: Any) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "entry",
    [
        {"prompt": "2 + 2?", "chosen": GOOD, "rejected": BAD},
        {"prompt": [USER], "chosen": [answer(GOOD)], "rejected": [answer(BAD)]},
        {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
        {"chosen": [USER, answer(GOOD)], "rejected": [USER, answer(BAD)]},
    ],
)
def test_every_form_says_the_same(tmp_path: Path, entry: dict[str, Any]) -> None:
    found = read_preferences(written(tmp_path, entry, entry | {"id": "b"}))
    assert found == [Preference(name, [Message("user", "2 + 2?")], GOOD, BAD) for name in ("line 1", "b")]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"prompt": "a", "chosen": "b"}, 'is not {"prompt"'),
        ([1], 'is not {"prompt"'),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same"),
        (
            {"chosen": [USER, answer("x")], "rejected": [USER | {"content": "3 + 3?"}, answer("y")]},
            "do not answer the same prompt",
        ),
        ({"chosen": [USER], "rejected": [USER, answer("y")]}, "chosen: has no answer"),
        ({"prompt": "a", "chosen": " ", "rejected": "b"}, "chosen: turn 2, of assistant, is empty"),
        ({"prompt": [USER], "chosen": "x", "rejected": [answer("y"), USER]}, "rejected does not end with"),
        ({"prompt": "a", "chosen": 7, "rejected": "b"}, "completion is 7, not a text"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, entry: Any, reason: str) -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(DataError) as raised:
        read_preferences(written(tmp_path, good, entry))
    assert "line 2: " in str(raised.value) and reason in str(raised.value)


def test_only_answers_are_compared_and_pairs_that_are_too_long_are_counted(tmp_path: Path) -> None:
    tokenizer = TiktokenTokenizer.load(DEMO / "qwen.tiktoken")
    turns = [Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    preferences = [Preference("short", turns, "good", "not so good"), Preference("long", turns, "good", "word " * 500)]
    file = tmp_path / "pairs.jsonl"
    with pytest.warns(DataWarning, match="1 of 2 pairs are longer than 100 tokens and were left out"):
        pairs = encode_pairs(preferences, tokenizer, 100, file)
    assert len(pairs) == 1
    for example, text in zip(pairs.pairs[0], ("good", "not so good"), strict=True):
        assert tokenizer.decode([int(label) for label in example.labels if label >= 0]) == f"{text}<|im_end|>\n"
        ids = [int(i) for i, label in zip(example.ids, example.labels, strict=True) if label >= 0]
        assert ids == [label for label in example.labels if label >= 0]
    with pytest.raises(DataError, match=r"every pair is longer than 10 tokens; raise --model-max-length"):
        encode_pairs(preferences, tokenizer, 10, file)
