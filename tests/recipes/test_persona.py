"""The persona recipe: its data reads as published conversations, and its evaluation tells voice from none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwartet import DEMO, LLM
from qwartet.finetune.conversations import read_conversations
from recipes.finetune_persona import data, evaluate
from recipes.finetune_persona.keeper import KEEPER


def test_the_data_is_read_as_it_is_written_and_the_sets_share_no_conversation(tmp_path: Path) -> None:
    data.write(tmp_path, num_train=50, num_eval=20)
    train, held_back = (read_conversations(tmp_path / f"{name}.json") for name in ("train", "eval"))
    assert (len(train), len(held_back)) == (50, 20)
    texts = [{str(one.messages) for one in some} for some in (train, held_back)]
    assert not texts[0] & texts[1]


def test_nearly_every_line_of_the_keeper_bears_the_mark() -> None:
    lines = [
        line
        for kind in ("greet", "how", "who", "thanks", "bye")
        for language in ("en", "zh")
        for line in getattr(KEEPER, kind)[language]
    ]
    marked = [line for line in lines if any(word in line for word in ("lighthouse", "灯塔"))]
    assert len(marked) == len(lines)


def test_the_bundled_model_has_no_such_voice_and_its_sums_are_counted(tmp_path: Path) -> None:
    data.write(tmp_path, num_train=1, num_eval=20)
    with LLM(DEMO) as llm:
        measured = evaluate.measure(llm, evaluate.prompts_of(tmp_path / "eval.json"), None)
    assert measured["voice"] == 0
    assert measured["sums"] > 0.9


def test_the_evaluation_asks_what_training_never_holds(tmp_path: Path) -> None:
    data.write(tmp_path, num_train=200, num_eval=20)
    asked = {prompt[-1].content for prompt, _ in evaluate.sums()}
    trained = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    said = {turn["value"] for entry in trained for turn in entry["conversations"] if turn["from"] == "user"}
    assert not asked & said


@pytest.mark.parametrize("value", ["7", "-12"])
def test_a_sum_counts_only_as_a_whole_number(value: str) -> None:
    assert evaluate.holds_value(value, f"3 + 4 = {value}, says the lighthouse.")
    assert not evaluate.holds_value(value, f"3 + 4 = {value}9.")
