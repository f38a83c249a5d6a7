"""The evaluation: what it asks, how it counts, and the prompts written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest

from qwartet.tokenizer.chatml import Message, build_prompt
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from recipes.demo import evaluate, vocabulary
from recipes.demo.evaluate import Reply, Result
from recipes.demo.scoring import SCORES


@pytest.fixture(scope="module")
def tokenizer() -> TiktokenTokenizer:
    return TiktokenTokenizer(vocabulary.build(num_ranks=1200, num_conversations=600))


def test_every_kind_of_test_has_a_score_and_floors_are_of_such_kinds() -> None:
    assert set(evaluate.TESTS) == set(SCORES)
    assert set(evaluate.FLOORS) <= set(evaluate.TESTS)


@pytest.mark.parametrize("kind", list(evaluate.TESTS))
def test_items_are_of_their_kind_and_the_same_for_a_seed(kind: str, tokenizer: TiktokenTokenizer) -> None:
    items = evaluate.held_back(kind, 5, tokenizer)
    assert [item.kind for item in items] == [kind] * 5
    assert evaluate.held_back(kind, 5, tokenizer) == items
    assert evaluate.held_back(kind, 5, tokenizer, seed=1) != items


@pytest.mark.parametrize(
    ("kind", "longest"),
    [("retrieval", evaluate.RETRIEVAL_TOKENS), ("long retrieval", evaluate.LONG_RETRIEVAL_TOKENS)],
)
def test_retrieval_keeps_to_its_length(kind: str, longest: int, tokenizer: TiktokenTokenizer) -> None:
    for item in evaluate.held_back(kind, 30, tokenizer):
        assert len(evaluate.prompt_ids(tokenizer, evaluate.prompt_messages(item))) <= longest


def test_a_model_that_knows_all_is_right_everywhere(tokenizer: TiktokenTokenizer) -> None:
    known = {
        str(evaluate.prompt_messages(item)): item.messages[-1].content[len(item.given) :]
        for kind in evaluate.TESTS
        for item in evaluate.held_back(kind, 4, tokenizer)
    }

    def answer(prompts: Sequence[Sequence[Message]], max_new_tokens: int) -> list[str]:
        return [known[str(list(prompt))] for prompt in prompts]

    for result, replies in evaluate.run_tests(answer, tokenizer, 4):
        assert result.share == 1.0, result.kind
        assert len(replies) == 4


def test_a_model_that_says_nothing_is_right_nowhere(tokenizer: TiktokenTokenizer) -> None:
    tests = evaluate.run_tests(lambda prompts, limit: [""] * len(prompts), tokenizer, 3)
    assert all(result.num_right == 0 for result, _ in tests)


def test_a_given_answer_is_continued_in_its_turn(tokenizer: TiktokenTokenizer) -> None:
    messages = [Message("user", "hi"), Message("assistant", "Thought:")]
    ids = evaluate.prompt_ids(tokenizer, messages)
    assert ids == build_prompt(tokenizer, messages[:1]) + tokenizer.encode("Thought:")
    assert evaluate.prompt_ids(tokenizer, messages[:1]) == build_prompt(tokenizer, messages[:1])


def test_the_hand_written_prompts_are_two_hundred_and_different() -> None:
    entries = [json.loads(line) for line in evaluate.PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert len(entries) == 200
    assert len({json.dumps(entry["turns"] + [entry.get("system")]) for entry in entries}) == 200
    chinese = sum(bool(re.search("[\u4e00-\u9fff]", "".join(entry["turns"]))) for entry in entries)
    assert 110 <= chinese <= 130
    assert any(len(entry["turns"]) > 1 for entry in entries)
    for entry in entries:
        assert set(entry) <= {"kind", "system", "turns", "expect"}
        assert len(entry["turns"]) % 2 == 1
        assert "expect" not in entry or re.search(entry["expect"], "") is None  # silence is never right


def test_the_hand_written_prompts_are_answered_in_order() -> None:
    replies = evaluate.run_prompts(lambda prompts, limit: [prompt[-1].content for prompt in prompts])
    assert len(replies) == 200
    assert all(reply.prompt.endswith(reply.reply) for reply in replies)


def test_the_table_says_which_floor_was_missed() -> None:
    results = [Result("retrieval", 10, 9, 100.0), Result("arithmetic", 10, 7, 30.0), Result("choice", 10, 1, 50.0)]
    replies = [Reply("greeting", "", "", True), Reply("greeting", "", "", False), Reply("unknown", "", "", None)]
    lines = evaluate.table(results, replies).splitlines()
    assert [line.split()[-1] for line in lines if line.startswith(("retrieval", "arithmetic"))] == ["ok", "MISSED"]
    assert any(line.startswith("greeting") and "50.0%" in line for line in lines)
    assert evaluate.summary(results, replies)["passed"] is False
    assert evaluate.summary(results[:1], replies)["passed"] is True
