"""The corpus: held-back keys stay out of training, every kind is well formed, a seed gives the same talk again."""

from __future__ import annotations

import json
import random
import re

import pytest

from qwartet.tokenizer.react_stream import parse_react
from recipes.demo.corpus import (
    arithmetic,
    choice,
    compliments,
    memory,
    mixture,
    names,
    react,
    repeat,
    retrieval,
    values,
)
from recipes.demo.corpus.conversation import LANGUAGES, Language
from recipes.demo.corpus.persona_lines import PERSONAS
from recipes.demo.corpus.split import HELD_BACK_PERCENT, Split, kept, split_of
from recipes.demo.corpus.words import COLOURS, HOBBIES, JOBS, PLACES, a, side
from recipes.demo.scoring import SCORES

SPLITS: tuple[Split, Split] = ("train", "test")


def conversations(split: Split, count: int = 400, progress: float = 1.0):
    rng = random.Random(f"tests {split}")
    return [mixture.draw(rng, split, progress) for _ in range(count)]


def test_one_key_in_five_is_held_back() -> None:
    held = sum(split_of(f"key {index}") == "test" for index in range(10_000))
    assert abs(held / 100 - HELD_BACK_PERCENT) < 2


def test_kept_divides_a_list_without_loss() -> None:
    keys = names.GIVEN
    assert sorted(kept(keys, "train") + kept(keys, "test")) == sorted(keys)


@pytest.mark.parametrize("pairs", [COLOURS, HOBBIES, JOBS, PLACES])
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_table_of_values_has_words_in_both_splits(pairs, language, split: Split) -> None:
    assert kept(side(pairs, language), split)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_values_belong_to_their_split(split: Split, language) -> None:
    rng = random.Random(1)
    for _ in range(100):
        drawn = [
            names.person(rng, split, language),
            names.town(rng, split, language),
            values.code(rng, split),
            values.clock(rng, split),
            values.password(rng, split),
            values.coloured_object(rng, split, language),
        ]
        assert {split_of(key) for key in drawn} == {split}


def test_operand_pairs_of_the_splits_are_disjoint_in_either_order() -> None:
    pairs: dict[Split, set[tuple[int, int]]] = {}
    for split in SPLITS:
        rng = random.Random(2)
        drawn = (arithmetic.operands(rng, split) for _ in range(5000))
        pairs[split] = {(min(a, b), max(a, b)) for a, b in drawn}
    assert not pairs["train"] & pairs["test"]


def test_no_held_back_pair_is_computed_anywhere_in_training() -> None:
    equations = re.compile(r"(?<![\d-])(\d{1,2}) [+-] (\d{1,2}) = ")
    found = 0
    for conversation in conversations("train", 1500):
        for message in conversation.messages:
            for left, right in equations.findall(message.content):
                found += 1
                assert split_of(arithmetic.pair_key(int(left), int(right))) == "train"
    assert found > 100


@pytest.mark.parametrize("split", SPLITS)
def test_answers_of_retrieval_and_memory_are_values_of_their_split(split: Split) -> None:
    rng = random.Random(3)
    for language in LANGUAGES:
        for _ in range(200):
            for talk in (retrieval.talk(rng, split, language), memory.talk(rng, split, language)):
                value = re.sub(r"^an? (?=[a-z]+$)", "", talk.expect)  # a job has an article
                assert split_of(value) == split or split_of(talk.expect) == split


def test_every_sum_is_right() -> None:
    rng = random.Random(4)
    for _ in range(500):
        talk = arithmetic.talk(rng, "train", rng.choice(LANGUAGES))
        for _, answer in talk.turns:
            left, operation, right, equals, value = answer.split(" ")
            assert (int(left) + int(right) if operation == "+" else int(left) - int(right)) == int(value)
            assert equals == "="
        assert talk.turns[-1][1].endswith(f" {talk.expect}")


def test_a_follow_up_goes_on_from_the_result() -> None:
    rng = random.Random(5)
    talks = [arithmetic.talk(rng, "train", "en") for _ in range(300)]
    followed = [talk for talk in talks if len(talk.turns) == 2]
    assert followed
    for talk in followed:
        assert talk.turns[1][1].startswith(talk.turns[0][1].split(" = ")[1] + " ")


def test_the_letter_of_a_choice_stands_before_the_right_option() -> None:
    rng = random.Random(6)
    for _ in range(300):
        talk = choice.talk(rng, "train", rng.choice(LANGUAGES))
        question, answer = talk.turns[0]
        options = dict(re.findall(r"^([A-D])(?:\. |\) |、)(.+)$", question, re.MULTILINE))
        assert sorted(options) == list("ABCD")
        assert len(set(options.values())) == 4
        assert answer in (talk.expect, f"{talk.expect}. {options[talk.expect]}")


def test_the_largest_and_the_smallest_number_are_what_they_are_called() -> None:
    rng = random.Random(7)
    checked = 0
    for _ in range(600):
        question, answer = choice.talk(rng, "train", rng.choice(LANGUAGES)).turns[0]
        if re.search("largest|smallest|哪个数最", question) and ". " in answer:
            numbers = [int(text) for text in re.findall(r"^[A-D]\D+(\d+)$", question, re.MULTILINE)]
            wanted = max(numbers) if re.search("largest|最大", question) else min(numbers)
            assert answer.split(". ")[1] == str(wanted)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("stage", [*retrieval.STAGES, retrieval.LONG])
def test_a_retrieval_answer_is_a_sentence_of_the_text(stage) -> None:
    rng = random.Random(8)
    for language in LANGUAGES:
        for split in SPLITS:
            for _ in range(50):
                talk = retrieval.talk(rng, split, language, stage)
                asked = talk.turns[0][0]
                answer = talk.turns[-1][1]
                assert answer in asked
                assert talk.expect in answer


def test_what_is_to_be_repeated_stands_at_the_end_of_the_request() -> None:
    rng = random.Random(9)
    for _ in range(200):
        question, answer = repeat.talk(rng, "train", rng.choice(LANGUAGES)).turns[0]
        assert question.endswith(answer)


def test_memory_asks_for_what_was_told() -> None:
    rng = random.Random(10)
    for _ in range(200):
        talk = memory.talk(rng, "train", rng.choice(LANGUAGES))
        assert any(talk.expect in said for said, _ in talk.turns[:-1])
        assert talk.expect in talk.turns[-1][1]


def test_react_calls_parse_and_name_a_tool_of_the_prompt() -> None:
    rng = random.Random(11)
    kinds = set()
    for _ in range(300):
        conversation = react.draw(rng, "train", rng.choice(LANGUAGES))
        kinds.add(conversation.kind)
        _, asked, answered = conversation.messages
        reply = parse_react(answered.content)
        if conversation.kind == "react answer":
            assert not reply.is_call
            continue
        assert f"{reply.name}: Call this tool" in asked.content
        assert json.loads(reply.arguments)
        assert answered.content.startswith(conversation.given)
        if conversation.kind == "react final":
            rest = answered.content[len(conversation.given) :]
            assert parse_react(rest, "thought").text == conversation.expect
    assert kinds == {"react call", "react final", "react answer"}


def test_every_line_of_a_persona_holds_its_mark() -> None:
    for name, persona in PERSONAS.items():
        for language in LANGUAGES:
            for intent in ("greet", "how", "who", "thanks", "bye"):
                for line in getattr(persona, intent)[language]:
                    assert re.search(persona.mark[language], line), (name, line)


def test_compliments_take_up_the_person() -> None:
    rng = random.Random(12)
    for language in LANGUAGES:
        for _ in range(50):
            _, asked, answered = compliments.draw(rng, "train", language).messages
            subject = asked.content.removeprefix("My ").removeprefix("我的")[: 2 if language == "zh" else 3]
            assert subject in answered.content


def test_the_default_system_prompt_is_the_usual_one() -> None:
    systems = [conversation.messages[0].content for conversation in conversations("train", 1000)]
    share = systems.count("You are a helpful assistant.") / len(systems)
    assert 0.65 < share < 0.85


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("progress", [0.0, 0.2, 0.6, 1.0])
def test_every_conversation_alternates_and_ends_with_an_answer(split: Split, progress: float) -> None:
    for conversation in conversations(split, 200, progress):
        roles = [message.role for message in conversation.messages]
        assert roles == ["system"] + ["user", "assistant"] * ((len(roles) - 1) // 2)
        assert len(roles) >= 3
        assert all(message.content == message.content.strip() for message in conversation.messages)
        assert all(message.content for message in conversation.messages[1:])


def test_every_scored_kind_accepts_its_own_answer() -> None:
    rng = random.Random(13)
    seen = set()
    for kind in mixture.WEIGHTS:
        for _ in range(100):
            conversation = mixture.draw_one(rng, "test", kind)
            reply = conversation.messages[-1].content[len(conversation.given) :]
            if conversation.kind in SCORES:
                seen.add(conversation.kind)
                assert SCORES[conversation.kind](conversation.expect, reply), conversation
    assert seen == set(SCORES) - {"long retrieval"}


def test_the_same_seed_draws_the_same_conversations() -> None:
    assert conversations("train", 50) == conversations("train", 50)


@pytest.mark.parametrize(("noun", "expected"), [("apple", "an apple"), ("cat", "a cat"), ("scissors", "scissors")])
def test_articles(noun: str, expected: str) -> None:
    assert a(noun) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_drill_asks_several_questions_that_its_own_text_or_sums_answer(language: Language) -> None:
    rng = random.Random(8)
    for _ in range(50):
        text, *_ = (turns := retrieval.drill(rng, "train", language).turns)[0]
        assert all(answer in text for _, answer in turns) and len(turns) <= retrieval.DRILL_QUESTIONS
        sums = arithmetic.drill(rng, "train", language)
        assert len(sums.turns) >= arithmetic.DRILL_TURNS[0]
        for _, answer in sums.turns:
            left, right = answer.split(" = ")
            a, operation, b = left.split(" ")
            assert int(right) == arithmetic.result(int(a), operation, int(b))
        assert sums.turns[-1][1].endswith(sums.expect)
