"""The card's text: complete in both languages, what was not measured says so, and untrusted text stays text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from qwartet.card.document import TASKS, markdown
from qwartet.card.file import CardData
from qwartet.card.published import published_tables
from qwartet.card.table import LANGUAGES, Language
from tests.card.made import INSPECT, card, step

NOTHING = CardData(("int4",), "0.1.0", "2026-11-29", {}, ())
HEADINGS = {"en": "not measured", "zh": "未测量"}


def section(text: str, title: str) -> str:
    return text.split(f"{title}\n", 1)[1].split("\n#", 1)[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_card_of_nothing_is_a_card_that_measured_nothing(language: Language) -> None:
    text = markdown(NOTHING, frozenset(), language)
    missing = {"en": "## Not measured", "zh": "## 未测量的项目"}[language]
    for task in TASKS:
        assert f"- {published_tables()[task].title[language]}\n" in section(text, missing) + "\n"


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_was_measured_is_there_and_what_was_not_says_so(language: Language) -> None:
    text = markdown(card(), frozenset({"needle.svg"}), language)
    titles = {task: f"### {published_tables()[task].title[language]}" for task in TASKS}
    assert "73.0" in section(text, titles["mmlu"]) and "73.4" in section(text, titles["mmlu"])
    assert HEADINGS[language] in section(text, titles["ceval"]).lower()
    assert "80.1" in section(text, titles["ceval"])  # the published figures
    assert "(needle.svg)" in section(text, titles["needle"]) and "roofline" not in text
    assert "qwartet evaluate int4" in text and "你好！" in text


def test_both_languages_have_the_same_figures() -> None:
    found = [
        re.findall(r"\d[\d,.]*\d", re.sub(r"[，。：（）]", " ", markdown(card(), frozenset(), one)))
        for one in LANGUAGES
    ]
    assert sorted(found[0]) == sorted(found[1])


def test_words_of_tables_are_chinese_in_the_chinese_card() -> None:
    text = markdown(card(), frozenset(), "zh")
    for word in ("measured", "published", "difference", "questions", "accuracy", "context", "weights", "language"):
        assert not re.search(rf"\b{word}\b", text), word


def test_a_command_that_failed_is_named_with_its_reason() -> None:
    failed = step("profile", None, None, command="qwartet profile x", failure="qwartet profile exited with 2")
    for language in LANGUAGES:
        text = markdown(card(failed), frozenset(), language)
        assert re.search(r"^- `qwartet profile x`.*exited with 2", text, re.MULTILINE)


def test_an_answer_cannot_leave_its_block() -> None:
    data = card()
    steps = tuple(
        replace(one, output={"response": "```\n# owned"}) if one.kind == "answer" else one for one in data.steps
    )
    text = markdown(replace(data, steps=steps), frozenset(), "en")
    assert "````text\n> 你好\n```\n# owned\n````" in text


def test_base_models_do_not_chat() -> None:
    data = card()
    base = {**INSPECT, "sampling": None}
    steps = tuple(
        replace(one, output=base) if one.kind == "inspect" else one for one in data.steps if one.kind != "answer"
    )
    text = markdown(replace(data, steps=steps), frozenset(), "en")
    assert "Qwen base model" in text and "ChatML" not in text and "answered greedily" not in text


def test_the_same_content_gives_the_same_text() -> None:
    assert markdown(card(), frozenset(), "en") == markdown(card(), frozenset(), "en")
