"""The needle's task: known answers give the known map; lengths, hay and needles are those asked for."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.filler.prose import prose
from qwartet.evaluate.question import Answer, Chat, Continue
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.run_file import read_run
from qwartet.evaluate.tasks.needle.heat_map import heat_map, short
from qwartet.evaluate.tasks.needle.needles import contains_word, made_needle
from qwartet.evaluate.tasks.needle.settings import CARD_LENGTHS, NeedleSettings, OwnNeedle, evenly
from qwartet.evaluate.tasks.needle.task import NeedleTask
from qwartet.tokenizer.chatml import build_prompt
from tests.evaluate.bundled import tokenizer
from tests.evaluate.fake import FakeAnswerer

SMALL = NeedleSettings(lengths=(256, 512), depths=(0, 50, 100), needles=2, buffer=90)


def task_of(settings: NeedleSettings = SMALL, max_model_len: int | None = 2048, *, is_chat: bool = True) -> NeedleTask:
    return NeedleTask(settings, tokenizer(), max_model_len, is_chat=is_chat)


@pytest.mark.parametrize(
    ("text", "word", "is_in"),
    [
        ("The number is 48213.", "48213", True),
        ("秘密编号是48213。", "48213", True),
        ("48,213", "48213", True),
        ("４８２１３", "48213", True),
        ("148213", "48213", False),
        ("482130", "48213", False),
        ("0.48213", "48213", False),
        ("48213.5", "48213", False),
        ("no. 482130, then 48213", "48213", True),
        ("4821 3", "48213", False),
        ("", "48213", False),
        ("It was the HERON, of course", "heron", True),
        ("two herons", "heron", False),
        ("暗号是苍鹭吧", "苍鹭", True),
        ("暗号是白鹭", "苍鹭", False),
    ],
)
def test_a_secret_is_found_as_a_whole_word(text: str, word: str, is_in: bool) -> None:
    assert contains_word(text, word) is is_in


def test_depths_are_spaced_as_in_the_harness() -> None:
    assert evenly(11) == tuple(range(0, 101, 10))
    assert evenly(10) == (0, 11, 22, 33, 44, 56, 67, 78, 89, 100)
    assert evenly(1) == (50,)
    assert CARD_LENGTHS == (1024, 4096, 8192, 12288, 16384, 20480, 24576, 28672, 32768)


def test_prompt_and_answer_fit_their_length() -> None:
    for settings in (SMALL, replace(SMALL, language="zh"), replace(SMALL, hay="zh")):
        for question in task_of(settings).questions():
            asked = question.request
            assert isinstance(asked, Chat)
            num_used = len(build_prompt(tokenizer(), asked.messages)) + asked.max_tokens
            assert int(question.group) - 80 < num_used <= int(question.group), question.id
            assert contains_word(asked.messages[0].content, question.reference)


def test_known_answers_give_the_known_map(tmp_path: Path) -> None:
    """Found: everything at 256 tokens; at 512 nothing at depth 0, one needle of two at 50, both at 100."""

    def reply(question):
        _, length, depth, number = question.id.split("/")
        is_found = length == "256" or depth == "100" or (depth == "50" and number == "1")
        return f"It is {question.reference}." if is_found else "I cannot find it, 12345."

    result = run_task(task_of(), FakeAnswerer(reply), RunSettings(tmp_path))
    assert [(one.name, one.value, one.count) for one in result.figures] == [
        ("found", 75.0, 12),
        ("length 256", 100.0, 6),
        ("length 512", 50.0, 6),
        ("depth 0 %", 50.0, 4),
        ("depth 50 %", 75.0, 4),
        ("depth 100 %", 100.0, 4),
    ]
    shares = {(256, 0): 1.0, (256, 50): 1.0, (256, 100): 1.0, (512, 0): 0.0, (512, 50): 0.5, (512, 100): 1.0}
    drawn = heat_map(shares, (256, 512), (0, 50, 100), "en")
    assert (tmp_path / "needle.png").read_bytes() == drawn["needle.png"]
    assert (tmp_path / "needle.svg").read_bytes() == drawn["needle.svg"]
    assert drawn["needle.svg"] != heat_map({**shares, (512, 50): 1.0}, (256, 512), (0, 50, 100), "en")["needle.svg"]


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    def stops(question):
        if question.id == "needle/512/0/0":
            raise KeyboardInterrupt
        return question.reference

    with pytest.raises(KeyboardInterrupt):
        run_task(task_of(), FakeAnswerer(stops), RunSettings(tmp_path))
    _, kept = read_run(tmp_path / "needle.jsonl")
    again = FakeAnswerer(lambda one: one.reference)
    assert run_task(task_of(), again, RunSettings(tmp_path)).figures[0].value == 100.0
    assert kept and not {record.id for record in kept} & set(again.asked)


def test_pictures_are_well_formed_and_without_dates() -> None:
    for language in ("en", "zh"):
        files = heat_map({(1024, 0): 0.4}, (1024, 4096), (0, 100), language)
        assert files["needle.png"].startswith(b"\x89PNG") and ET.fromstring(files["needle.svg"]).tag.endswith("svg")
        assert b"<dc:date>" not in files["needle.svg"] and b"matplotlib.org" not in files["needle.png"]
        assert files == heat_map({(1024, 0): 0.4}, (1024, 4096), (0, 100), language)
    assert (short(4096), short(1000), short(500)) == ("4K", "1,000", "500")


def test_lengths_above_the_context_are_left_out_and_told() -> None:
    task = task_of(replace(SMALL, lengths=(256, 4096, 8192)))
    assert {question.group for question in task.questions()} == {"256"}
    assert task.settings["lengths"] == [256]
    answerer = FakeAnswerer(lambda question: Answer("x"))
    answerer.is_chat, answerer.work = True, float
    lines = list(task.forecast(answerer))
    assert lines[0] == "needle: left out 4,096, 8,192: longer than the model's context of 2,048 tokens"
    assert lines[1].startswith("needle: 6 prompts of 256 tokens, about ") and lines[1].endswith(" s each")
    assert lines[-1].startswith("needle: 6 prompts, 1,536 tokens, at most ")
    with pytest.raises(SettingError, match="no needle length fits the model's context of 128 tokens"):
        task_of(SMALL, 128)


def test_needles_have_secrets_of_their_own_in_both_languages() -> None:
    for language in ("en", "zh"):
        needles = [made_needle(language, number) for number in range(24)]
        assert len({needle.answer for needle in needles}) == 24
        assert all(contains_word(needle.text, needle.answer) for needle in needles)
        assert not any(contains_word(needle.question, needle.answer) for needle in needles)
    first = made_needle("en", 0).answer
    assert made_needle("en", 0, f"The file has {first} in it.").answer != first


def test_a_hay_file_is_used_and_known_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "hay.txt"
    path.write_text(prose("zh", 99, 600, tokenizer()), encoding="utf-8")
    settings = replace(SMALL, hay=path, needles=1)
    [question, *_] = task_of(settings).questions()
    assert path.read_text(encoding="utf-8")[:40] in question.request.messages[0].content
    assert task_of(settings).settings["hay"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.dumps(task_of(settings).settings)
    with pytest.raises(DataError, match=r"tokens, fewer than the longest length needs \(2,048\)"):
        task_of(replace(settings, lengths=(2048,))).questions()
    with pytest.raises(DataError, match="no such file"):
        task_of(replace(settings, hay=tmp_path / "none.txt")).questions()


def test_a_needle_of_the_users() -> None:
    own = OwnNeedle("Die Losung heißt Reiher.", "Wie heißt die Losung?", "Reiher")
    [question, *_] = task_of(replace(SMALL, own=own)).questions()
    assert own.text in question.request.messages[0].content and question.reference == "Reiher"
    with pytest.raises(SettingError, match="does not contain its answer"):
        task_of(replace(SMALL, own=replace(own, answer="Kranich"))).questions()
    with pytest.raises(SettingError, match="the hay contains the needle's answer"):
        task_of(replace(SMALL, own=OwnNeedle("It was the storm.", "What was it?", "storm"))).questions()
    with pytest.raises(SettingError, match="pass all three"):
        replace(SMALL, own=replace(own, question=" "))


def test_a_base_model_continues_the_text() -> None:
    [question, *_] = task_of(is_chat=False).questions()
    assert isinstance(question.request, Continue)
    assert question.request.prompt.endswith("Answer with the number alone.\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lengths": (100,)}, "100 tokens, 90 of them for question and answer, are too few for the needle"),
        ({"buffer": 20}, "--needle-buffer is 20; question and answer need"),
    ],
)
def test_lengths_without_room_are_told(change: dict, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        task_of(replace(SMALL, **change)).questions()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"depths": (0, 101)}, "--needle-depths has 101"),
        ({"needles": 0}, "--needles is 0"),
        ({"lengths": ()}, "at least one length"),
        ({"needles": 5000}, "30,000 needle questions"),
    ],
)
def test_settings_out_of_range_are_told(change: dict, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        replace(SMALL, **change)
