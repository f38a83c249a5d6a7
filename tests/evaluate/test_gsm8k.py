"""GSM8K: the last number of an answer counts, on hand-made texts and on all published solutions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwartet.errors import DataError
from qwartet.evaluate.extraction.numbers import is_same_number, last_digits, last_number, reference_number
from qwartet.evaluate.question import Chat, Continue
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.tasks.gsm8k import Gsm8k
from tests.evaluate.fake import FakeAnswerer
from tests.evaluate.published_data import published


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("12 + 30 = 42, so she has 42 apples.", "42"),
        ("共有 1,234 个", "1234"),
        ("It costs $3.50.", "3.50"),
        ("temperature of -7 degrees", "-7"),
        ("first 5, then none", "5"),
        ("1,000,000 dollars", "1000000"),
        (".5 of it", ".5"),
        ("no number at all", None),
        ("", None),
    ],
)
def test_the_last_number_of_a_chat_answer(text: str, number: str | None) -> None:
    assert last_number(text) == number


def test_the_last_digits_of_a_base_answer() -> None:
    assert last_digits("The answer is 1,234") == "234"
    assert last_digits("none") is None


def test_numbers_are_compared_with_the_published_tolerance() -> None:
    assert is_same_number("18.00005", "18") and is_same_number("1e1", "10")
    assert not is_same_number("18.001", "18") and not is_same_number(None, "18") and not is_same_number(".", "18")


def test_all_published_solutions_are_right(tmp_path: Path) -> None:
    directory = published("gsm8k")
    solutions = {
        f"gsm8k/{n}": json.loads(line)["answer"]
        for n, line in enumerate((directory / "test.jsonl").read_text(encoding="utf-8").splitlines())
    }
    result = run_task(Gsm8k(directory, 0), FakeAnswerer(lambda one: solutions[one.id]), RunSettings(tmp_path))
    assert (result.figures[0].value, result.num_questions) == (100.0, 1319)


def test_published_model_answers_get_their_labels() -> None:
    rows = (published("gsm8k") / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    num_right, num = 0, 0
    for row in map(json.loads, rows):
        reference = last_number(row["ground_truth"])
        for model in (value for value in row.values() if isinstance(value, dict)):
            assert is_same_number(last_number(model["solution"]), reference) == model["is_correct"], row["question"]
            num, num_right = num + 1, num_right + model["is_correct"]
    assert (num, num_right) == (5276, 2001)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "1 + 1?"}', "line 2: the field 'answer' is missing"),
        ('{"question": 7, "answer": "#### 2"}', "line 2: the field 'question' has the wrong type"),
        ('{"question": "1 + 1?", "answer": "two"}', "line 2: the answer does not end"),
        ("[]", "line 2: not a JSON object"),
        ("{", "line 2: not valid JSON"),
    ],
)
def test_a_broken_row_is_named_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "test.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=reason):
        Gsm8k(tmp_path, 0).questions()


def test_no_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no gsm8k_test.jsonl or test.jsonl"):
        Gsm8k(tmp_path, 0)


def test_the_number_of_a_reference() -> None:
    assert reference_number("so it is\n#### 1,234") == "1234"
    assert reference_number("no mark") is None


@pytest.fixture
def with_examples(tmp_path: Path) -> Path:
    (tmp_path / "test.jsonl").write_text('{"question": "3 + 4?", "answer": "#### 7"}\n')
    examples = (f"Question: {n} + 1?\nLet's think step by step\nEasy.\nThe answer is {n + 1}\n" for n in range(2))
    (tmp_path / "gsm8k_prompt.txt").write_text("\n".join(examples))
    return tmp_path


def test_a_base_model_continues_after_worked_examples(with_examples: Path, tmp_path: Path) -> None:
    task = Gsm8k(with_examples, 2, is_chat=False)
    [question] = task.questions()
    assert question.request == Continue(
        "Question: 0 + 1?\nLet's think step by step\nEasy.\nThe answer is 1\n\n"
        "Question: 1 + 1?\nLet's think step by step\nEasy.\nThe answer is 2\n\n"
        "Question: 3 + 4?\nLet's think step by step\n",
        stop=("\n\n", "Question:"),
    )
    assert (
        run_task(task, FakeAnswerer(lambda _: "The answer is 7"), RunSettings(tmp_path / "out")).figures[0].value == 100
    )


def test_a_chat_model_gets_examples_where_they_are_asked_for(with_examples: Path) -> None:
    [question] = Gsm8k(with_examples, 1).questions()
    assert isinstance(question.request, Chat)
    assert question.request.messages[0].content.startswith("Question: 0 + 1?")
    assert question.request.messages[0].content.endswith("Question: 3 + 4?\nLet's think step by step")
    with pytest.raises(DataError, match="2 examples, but --shots is 5"):
        Gsm8k(with_examples, 5).questions()


def test_the_published_prompt_has_eight_examples(tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    (folder / "gsm8k_prompt.txt").write_bytes((published("qwen-eval") / "gsm8k_prompt.txt").read_bytes())
    (folder / "test.jsonl").write_text('{"question": "3 + 4?", "answer": "#### 7"}\n')
    [question] = Gsm8k(folder, 8, is_chat=False).questions()
    assert isinstance(question.request, Continue)
    published_text = (folder / "gsm8k_prompt.txt").read_text()
    assert question.request.prompt == published_text + "\nQuestion: 3 + 4?\nLet's think step by step\n"
