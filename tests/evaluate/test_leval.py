"""L-Eval: prompts, cuts and scores as published, on small files of the published form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.extraction.exams import (
    chosen_letters,
    exam_score,
    plain_output,
    program_output,
    reference_letters,
    verdict,
    whole_number,
)
from qwartet.evaluate.question import Chat
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.tasks.leval import LEval
from qwartet.tokenizer.chatml import build_prompt
from tests.evaluate.bundled import tokenizer
from tests.evaluate.fake import FakeAnswerer

ROWS: dict[str, list[dict[str, Any]]] = {
    "coursera": [{"input": "Lecture.", "instructions": ["Q1\nA. x\nB. y", "Q2"], "outputs": ["AB", "C"]}],
    "gsm100": [{"input": "Question: 1+1?\nThe answer is 2", "instructions": ["Question: 2+2?"], "outputs": ["4"]}],
    "quality": [{"input": "Story.", "instructions": ["Q"], "outputs": ["(B) yes"]}],
    "tpo": [{"input": "Talk.", "instructions": ["Q"], "outputs": ["D"]}],
    "codeU": [{"input": "def f(): ...", "instructions": ["What is the final output?"], "outputs": ["[6 15]"]}],
    "sci_fi": [
        {
            "input": "Mars.",
            "instructions": ["Mars is blue, based on the world described in the document."],
            "outputs": ["True [fact: False]"],
        }
    ],
}
RIGHT = {
    "coursera/0/0": "AB", "coursera/0/1": "C", "gsm100/0/0": "2+2=4. The answer is 4.", "quality/0/0": "B",
    "tpo/0/0": "D.", "codeU/0/0": "So the final output is [6, 15].", "sci_fi/0/0": "True.", "sci_fi/0/0/fact": "False",
}  # fmt: skip


def write(directory: Path, rows: dict[str, list[dict[str, Any]]] = ROWS) -> Path:
    for task, documents in rows.items():
        lines = (json.dumps({"source": "x", "evaluation": "exam", **document}) for document in documents)
        (directory / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("answer", "one", "several"),
    [
        ("B", "B", "B"),
        ("BD", "B", "BD"),
        ("DB", "D", "BD"),
        ("DBD and more", "D", "BD"),
        ("A. this\nC. that", "A", "AC"),
        ("The answers are B) and D)", "B", "BD"),
        ("I choose C", "C", "C"),
        ("Because of B.", "B", "B"),
        ("none of them", "A", "A"),
        ("", "None", "None"),
        ("A, Question: B. ", "A", "A"),
        ("ABC", "ABC", "ABC"),
    ],
)
def test_letters_of_an_answer(answer: str, one: str, several: str) -> None:
    assert (chosen_letters(answer, several=False), chosen_letters(answer, several=True)) == (one, several)


@pytest.mark.parametrize(
    ("found", "reference", "score"),
    [
        ("AB", "AB", 1.0),
        ("A", "AB", 0.25),
        ("ABC", "AB", 0.0),
        ("C", "AB", 0.0),
        ("B", "B", 1.0),
        ("42", "42", 1.0),
        ("42", "42.0", 1.0),
        ("142", "42", 0.0),
        ("", "42", 0.0),
        ("so [6 15].", "[6 15]", 1.0),
        ("true", "true", 1.0),
        ("<error>", "true", 0.0),
    ],
)
def test_scores(found: str, reference: str, score: float) -> None:
    assert exam_score(found, reference) == score


def test_numbers_outputs_and_verdicts() -> None:
    assert whole_number("It costs $1,234.50 in all.\n\n7 more") == "1234"
    assert whole_number("The answer is $18. But 19?") == "18"
    assert whole_number("none") == ""
    assert plain_output("[[1, 2],\n [3, 4.0]]") == "[[1 2][3 4]]"
    assert program_output("Here the final output of the code is [6, 15]. It sums rows, as the axis is given.", "[6 15]")
    assert "[6 15]" in program_output("a, b: the final output is [6, 15]", "[6 15]")
    assert "[6 15]" not in program_output("[6, 15] one two three four five six", "[6 15]")  # not at the end
    assert [verdict(one) for one in ("It is True", "false", "untrue", "no")] == ["true", "false", "true", "<error>"]
    assert reference_letters("(B) yes A") == "B" and reference_letters("none") == "A"


def test_known_answers_give_the_known_figures(tmp_path: Path) -> None:
    write(tmp_path)
    answerer = FakeAnswerer(lambda one: RIGHT[one.id])
    result = run_task(LEval(tmp_path, tokenizer(), 2048), answerer, RunSettings(tmp_path / "right"))
    assert [(one.name, one.value) for one in result.figures] == [
        (name, 100.0) for name in ("average", "coursera", "gsm100", "quality", "tpo", "codeU", "sci_fi")
    ]
    wrong = {"coursera/0/0": "A", "sci_fi/0/0/fact": "True", "codeU/0/0": "7", "tpo/0/0": "A"}
    answerer = FakeAnswerer(lambda one: {**RIGHT, **wrong}[one.id])
    result = run_task(LEval(tmp_path, tokenizer(), 2048), answerer, RunSettings(tmp_path / "wrong"))
    values = {one.name: one.value for one in result.figures}
    assert values["coursera"] == 62.5 and values["sci_fi"] == 50.0 and values["tpo"] == values["codeU"] == 0.0
    assert values["average"] == pytest.approx((62.5 + 100 + 100 + 0 + 0 + 50) / 6)


def test_prompts_are_the_published_ones(tmp_path: Path) -> None:
    asked = {one.id: one.request for one in LEval(write(tmp_path), tokenizer(), 2048).questions()}
    assert set(asked) == set(RIGHT)
    system, user = asked["quality/0/0"].messages
    assert system.content.startswith("Now you are given a very long document.") and "(like A or B)" in system.content
    assert user.content == (
        "Document is as follows. Story. Question: Q \n"
        "Please directly give answer without any additional output or explanation\n Answer: "
    )
    assert "(like A or AB)" in asked["coursera/0/0"].messages[0].content
    assert asked["gsm100/0/0"].messages[1].content == "Question: 1+1?\nThe answer is 2\n\nQuestion: 2+2?"
    assert "end with The answer is _ . " in asked["gsm100/0/0"].messages[0].content
    fact = asked["sci_fi/0/0/fact"].messages
    assert fact[:2] == asked["sci_fi/0/0"].messages and fact[2].content == (
        "Mars is blue, based on the real-world knowledge and facts up until your last training\n"
        "Please directly give answer without any additional output or explanation \nAnswer:"
    )
    assert all(isinstance(one, Chat) and one.max_tokens == 512 for one in asked.values())


def test_documents_are_cut_to_the_context(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(2000)]
    rows = {task: [{**ROWS[task][0], "input": " ".join(words)}] for task in ("coursera", "codeU", "sci_fi")}
    task = LEval(write(tmp_path, rows), tokenizer(), 2048)
    asked = {one.id: one.request for one in task.questions()}
    for request in asked.values():
        num_used = len(build_prompt(tokenizer(), request.messages)) + 512
        assert 2048 - 120 < num_used <= 2048
    text = asked["coursera/0/0"].messages[1].content
    assert "follows. word0 word1 " in text and "word1999" not in text
    code = asked["codeU/0/0"].messages[1].content
    assert "word1999\n\nWhat" in code and "word0 " not in code
    first, second = (asked[f"coursera/0/{n}"].messages[1].content for n in range(2))
    assert first.partition(" Question: ")[0] == second.partition(" Question: ")[0]  # computed once for both
    assert list(task.forecast(FakeAnswerer(lambda one: ""))) == [
        "leval: gsm100.jsonl, quality.jsonl, tpo.jsonl not found; the average is of 3 tasks",
        "leval: 3 of 3 documents are cut to the model's context of 2,048 tokens",
    ]
    whole = LEval(tmp_path, None, None).questions()[0].request
    assert "word1999" in whole.messages[1].content
    with pytest.raises(SettingError, match="question and answer of coursera do not fit the context of 600 tokens"):
        LEval(tmp_path, tokenizer(), 600).questions()


def test_an_average_of_some_tasks_says_so(tmp_path: Path) -> None:
    write(tmp_path, {"tpo": ROWS["tpo"], "gsm100": ROWS["gsm100"]})
    result = run_task(LEval(tmp_path, None, None), FakeAnswerer(lambda one: RIGHT[one.id]), RunSettings(tmp_path / "o"))
    assert [one.name for one in result.figures] == ["average of 2 tasks", "gsm100", "tpo"]


@pytest.mark.parametrize(
    ("task", "change", "reason"),
    [
        ("tpo", {"outputs": ["A", "B"]}, "line 1: 1 instructions and 2 outputs"),
        ("tpo", {"instructions": [], "outputs": []}, "line 1: 0 instructions"),
        ("tpo", {"outputs": [4]}, "line 1: an instruction or output is not text"),
        ("tpo", {"outputs": [" "]}, "line 1: the output ' ' contains no answer"),
        ("gsm100", {"outputs": ["four"]}, "line 1: the output 'four' contains no answer"),
        ("sci_fi", {"outputs": ["True"]}, "line 1: the output 'True' contains no answer"),
        ("tpo", {"input": 3}, "line 1: the field 'input' has the wrong type"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, task: str, change: dict[str, Any], reason: str) -> None:
    write(tmp_path, {task: [{**ROWS[task][0], **change}]})
    with pytest.raises(DataError, match=reason):
        LEval(tmp_path, tokenizer(), 2048).questions()


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of coursera, gsm100"):
        LEval(tmp_path, None, None)


def test_rows_of_other_metrics_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"tpo": [{**ROWS["tpo"][0], "evaluation": "human"}, ROWS["tpo"][0]]})
    assert [one.id for one in LEval(tmp_path, None, None).questions()] == ["tpo/1/0"]
