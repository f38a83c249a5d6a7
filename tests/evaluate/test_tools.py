"""Tool use: calls are parsed and scored as published, on small files of the published form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwartet.errors import DataError
from qwartet.evaluate.question import Answer, Chat
from qwartet.evaluate.rouge import rouge_l
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.tasks.tools import ToolUse, parse_call
from tests.evaluate.bundled import tokenizer
from tests.evaluate.fake import FakeAnswerer

PROMPT = "Answer the following questions as best you can. ...\n\nQuestion: {}"


def call(tool: str, arguments: str) -> str:
    return f"Thought: I need {tool}.\nAction: {tool}\nAction Input: {arguments}\nObservation:"


POSITIVE = [
    (PROMPT.format("weather?"), call("weather", '{"city": "Bern", "days": 3}')),
    (PROMPT.format("画图"), call("image_gen", '{"prompt": "a red fox"}')),
    (PROMPT.format("search"), call("search", '{"q": "qwen"}')),
    (PROMPT.format("sum"), call("calculator", '{"x": "1 + 1"}')),
]
NEGATIVE = [(PROMPT.format("hello"), "Thought: no tool.\nFinal Answer: hello")] * 4


def write(directory: Path, group: str, rows: list[tuple[str, str]], version: str = "v20231206") -> None:
    lines = [json.dumps({"prompt": prompt, "response": response}, ensure_ascii=False) for prompt, response in rows]
    path = directory / f"exam_plugin_{version}_react_{group}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path, "positive", POSITIVE)
    write(tmp_path, "negative", NEGATIVE)
    return tmp_path


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (call("search", '{"b": 1, "a": "x"}'), ("search", '{"a": "x", "b": 1}')),
        (call("search", "{b: 1, 'a': 'x',}"), ("search", '{"a": "x", "b": 1}')),  # JSON5
        (call("画图", '{"词": "狐狸"}'), ("画图", '{"词": "狐狸"}')),
        (call("search", "qwen"), ("search", "")),
        ("Thought: x\nAction: search\nAction Input: {}", ("search", "{}")),
        ("Thought: x\nAction: a\nAction Input: {}\nObservation: 1\nAction: b\nAction Input: [1]", ("a", "{}")),
        (call("search", "[" * 5000), ("search", "")),
    ],
)
def test_calls_are_parsed_as_published(response: str, found: tuple[str, str]) -> None:
    assert parse_call(response) == found


def test_known_answers_give_the_known_figures(data: Path, tmp_path: Path) -> None:
    answers = {
        "tools/positive/0": call("Weather", '{"days": 3, "city": "Bern"}'),  # right; case and order do not matter
        "tools/positive/1": call("image_gen", "no JSON"),  # right tool, no arguments
        "tools/positive/2": call("weather", '{"q": "qwen"}'),  # wrong tool, right arguments
        "tools/positive/3": "It is 2.",
        "tools/negative/0": "Thought: none.\nFinal Answer: hello",
        "tools/negative/1": call("search", "{}"),
        "tools/negative/2": "Action: search",  # not on a line of its own
        "tools/negative/3": "hello",
    }
    result = run_task(
        ToolUse(data, tokenizer()), FakeAnswerer(lambda one: answers[one.id]), RunSettings(tmp_path / "o")
    )
    figures = {one.name: (one.value, one.count) for one in result.figures}
    assert figures == {"tool selection": (50.0, 4), "argument ROUGE-L": (50.0, 4), "false positives": (25.0, 4)}
    assert result.figures[0].name == "tool selection"


def test_the_rouge_is_of_the_models_tokens(data: Path) -> None:
    task = ToolUse(data, tokenizer())
    right, nearly = '{"q": "qwen"}', '{"q": "qwent"}'
    grade = task.grade(task.questions()[2], Answer(call("search", nearly)))
    tokens = [
        " ".join(tokenizer().decode([one]) for one in tokenizer().encode(text)).split() for text in (nearly, right)
    ]
    assert grade.details["argument_rouge_l"] == rouge_l(*tokens)
    assert grade.details["argument_rouge_l"] > 0.5 == rouge_l(nearly.split(), right.split())


def test_the_published_penalty_is_asked_for(data: Path) -> None:
    questions = ToolUse(data, tokenizer()).questions()
    assert len(questions) == 8
    for question in questions:
        assert isinstance(question.request, Chat)
        assert question.request.repetition_penalty == 1.1 and question.request.max_tokens == 512
        assert [message.role for message in question.request.messages] == ["user"]


def test_the_first_version_of_the_files_is_taken_too(tmp_path: Path) -> None:
    write(tmp_path, "positive", POSITIVE, "v1")
    write(tmp_path, "negative", NEGATIVE, "v1")
    assert len(ToolUse(tmp_path, tokenizer()).questions()) == 8


def test_bad_files_are_named(data: Path) -> None:
    write(data, "positive", [*POSITIVE, ("question", "Final Answer: none")])
    with pytest.raises(DataError, match="line 5: the response calls no tool"):
        ToolUse(data, tokenizer()).questions()
    (data / "exam_plugin_v20231206_react_negative.jsonl").unlink()
    with pytest.raises(DataError, match=r"no exam_plugin_v20231206_react_negative\.jsonl or"):
        ToolUse(data, tokenizer())
