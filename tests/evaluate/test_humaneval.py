"""HumanEval: published prompts, extraction of code, and the published right and wrong solutions through the sandbox."""

from __future__ import annotations

import gzip
import json
import re
import textwrap
import time
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.errors import DataError, SettingError
from qwartet.evaluate import model_code
from qwartet.evaluate.extraction.code import body_in_answer, body_in_continuation
from qwartet.evaluate.forecast import Forecasting
from qwartet.evaluate.question import Answer, Question
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.run_file import read_run
from qwartet.evaluate.tasks import humaneval
from qwartet.evaluate.tasks.humaneval import HumanEval
from qwartet.evaluate.tasks.registry import TaskOptions, make_tasks
from qwartet.sandbox.walls import find_sandbox
from tests.evaluate.fake import FakeAnswerer
from tests.evaluate.published_data import published

# Where the published script describes another thing than the function: the helper above it, or a note.
OTHER_DESCRIPTIONS = (10, 32, 38, 50, 64)


@pytest.fixture
def task() -> HumanEval:
    return task_of(published("humaneval"))


def task_of(directory: Path, *, is_chat: bool = True) -> HumanEval:
    try:
        find_sandbox()
    except SettingError as error:
        pytest.skip(str(error))
    return HumanEval(directory, is_chat=is_chat, allow_code_execution=True)


def rows() -> list[dict[str, str]]:
    with gzip.open(published("humaneval") / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def pack_rows() -> list[dict[str, str]]:
    text = (published("humanevalpack-python") / "humanevalpack.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def own_data(directory: Path, **changes: Any) -> Path:
    row = {
        "task_id": "Own/0",
        "prompt": 'def square(x):\n    """ The square of x.\n    >>> square(2)\n    4\n    """\n',
        "entry_point": "square",
        "test": "def check(candidate):\n    assert candidate(3) == 9\n",
    }
    (directory / "HumanEval.jsonl").write_text(json.dumps(row | changes) + "\n", encoding="utf-8")
    return directory


def test_the_chat_prompt_names_the_function_and_repeats_its_head(tmp_path: Path) -> None:
    [question] = task_of(own_data(tmp_path)).questions()
    assert question.request.messages[0].content == (
        "Write a Python function `square(x)` to solve the following problem:\nThe square of x.\n>>> square(2)\n4\n\n"
        'def square(x):\n    """ The square of x.\n    >>> square(2)\n    4\n    """\n'
    )
    assert (question.id, question.request.max_tokens) == ("Own/0", 512)


def test_the_base_prompt_is_the_head_alone(tmp_path: Path) -> None:
    [question] = task_of(own_data(tmp_path), is_chat=False).questions()
    assert question.request.prompt.startswith("def square(x):") and question.request.stop == ("\n\n", "def ")


def test_prompts_are_those_of_humanevalpack_but_for_known_ones(task: HumanEval) -> None:
    """Blank lines apart, which HumanEvalPack drops; its own signature of problem 115 holds a line of the body."""
    others = []
    for number, (question, row, pack) in enumerate(zip(task.questions(), rows(), pack_rows(), strict=True)):
        asked = question.request.messages[0].content
        assert asked.endswith("\n" + row["prompt"])
        instruction = asked.removesuffix("\n" + row["prompt"])
        if re.sub(r"\s+", " ", instruction).strip() != re.sub(r"\s+", " ", pack["instruction"]).strip():
            others.append(number)
    assert others == sorted((*OTHER_DESCRIPTIONS, 115))


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("Sure:\n```python\ndef f(x):\n    return x\n```\nThat is all.", "    return x"),
        (
            "```python\nimport math\n\n\ndef f(x: int) -> int:\n    y = 1\n\n    return y\n```",
            "    y = 1\n\n    return y",
        ),
        ("```\ndef f(x):\n    return 1\n```", "    return 1"),
        ("```python\ndef g(x):\n    return 2\n\ndef f(x):\n    return g(x)\n```", "    return g(x)"),
        ("def f(x):\n    return x\nIt returns x.", "    return x"),
        ("def f(x):\n\treturn x\n\n\nprint(f(1))", "\treturn x"),
        ("def f(x):\n    y = x\n\n    return y\n \nDone.", "    y = x\n\n    return y"),
        ("def other(x):\n    return 3\n", "    return 3"),
        ("```python\ndef other(x):\n    return 3\n```", "    return 3"),
        ("return x", "    return x"),
        ("", ""),
    ],
)
def test_the_code_of_an_answer(text: str, body: str) -> None:
    assert body_in_answer(text, "f") == body


def published_body(text: str, entry_point: str) -> str:
    """eval/evaluate_chat_humaneval.py's patterns as they are."""
    for pattern in (
        rf"```(?:[Pp]ython\n)?.*?def\s+{entry_point}.*?:\n(.*?)\n```",
        rf"def\s+{entry_point}.*?:\n(.*?)(?:\n(?!\n*(?:  |\t))|$)",
        r"def.*?:\n(.*?)(?:\n(?!\n*(?:  |\t))|$)",
    ):
        if match := re.search(pattern, text, re.DOTALL):
            return match[1]
    return textwrap.indent(text, " " * 4)


PIECES = st.sampled_from(
    ("```", "`", "python\n", "Python\n", "def ", "def\n", "f", "g", "(x)", ":", "\n", " ", "    ", "\t", "y")
)


@hypothesis.settings(max_examples=500)
@given(st.lists(PIECES, max_size=25).map("".join))
def test_code_is_cut_as_the_published_patterns_cut_it(text: str) -> None:
    assert body_in_answer(text, "f") == published_body(text, "f")


@pytest.mark.parametrize(
    "piece", ["```python\n", "def ", "def f(", "def f", "\n", "def f:\n", "```def f:\n", "def \n", ":\n"]
)
def test_a_megabyte_is_read_in_a_second(piece: str) -> None:
    text = piece * (10**6 // len(piece))
    started = time.process_time()
    body_in_answer(text, "f")
    body_in_answer("def f:\n" + text, "f")
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("    return x\n\n\ndef g():\n    pass", "    return x"),
        ("    return x\ndef g():", "    return x\n"),
        ("    return x", "    return x"),
        ("\n\n    return x", ""),
    ],
)
def test_a_continuation_ends_at_a_blank_line_or_the_next_function(text: str, body: str) -> None:
    assert body_in_continuation(text) == body


@pytest.mark.parametrize(
    ("answer", "score", "verdict"),
    [
        ("```python\ndef square(x):\n    return x * x\n```", 1.0, "passed"),
        ("```python\ndef square(x):\n    return x + x\n```", 0.0, "wrong result"),
        ("```python\ndef square(x):\n    return y\n```", 0.0, "exception"),
        ("```python\ndef square(x):\n    while True: pass\n```", 0.0, "time limit"),
        ("```python\ndef square(x):\n    return bytes(2**30)\n```", 0.0, "memory limit"),
        ("I cannot do this.", 0.0, "syntax error"),
    ],
)
def test_a_grade_says_why_code_fails(tmp_path: Path, answer: str, score: float, verdict: str) -> None:
    result = run_task(task_of(own_data(tmp_path)), FakeAnswerer(lambda _question: answer), RunSettings(tmp_path))
    [record] = read_run(tmp_path / "humaneval.jsonl")[1]
    assert (record.score, record.details["verdict"]) == (score, verdict)
    assert [(figure.name, figure.value) for figure in result.figures] == [("passed", 100 * score)]


def test_base_models_are_graded_on_their_continuation(tmp_path: Path) -> None:
    task = task_of(own_data(tmp_path), is_chat=False)
    [question] = task.questions()
    assert task.grade(question, Answer("    return x * x\n\n\ndef square(x):\n    return 0\n")).score == 1.0
    assert task.grade(question, Answer("    return x + 1\n")).score == 0.0


def solved(task: HumanEval, solutions: list[str], tmp_path: Path) -> list[str]:
    """The verdicts of these bodies, as continuations of a base model that are not cut."""
    by_id = {f"HumanEval/{number}": body for number, body in enumerate(solutions)}
    run_task(task, FakeAnswerer(lambda question: by_id[question.id]), RunSettings(tmp_path))
    return [record.details["verdict"] for record in read_run(tmp_path / "humaneval.jsonl")[1]]


@pytest.mark.slow
@pytest.mark.parametrize(("field", "num_passed"), [("canonical_solution", 164), ("buggy_solution", 0)])
def test_the_published_solutions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, num_passed: int) -> None:
    monkeypatch.setattr(humaneval, "body_in_continuation", lambda text: text)
    task = task_of(published("humaneval"), is_chat=False)
    verdicts = solved(task, [row[field] for row in pack_rows()], tmp_path)
    assert len(verdicts) == 164 and verdicts.count("passed") == num_passed


def test_some_published_solutions(tmp_path: Path, task: HumanEval) -> None:
    """Those whose tests need more than calls: functions of the prompt, the candidate by its name, random arguments."""
    for number in (32, 33, 38, 50):
        question: Question = task.questions()[number]
        pack = pack_rows()[number]
        for field, score in (("canonical_solution", 1.0), ("buggy_solution", 0.0)):
            answer = Answer(f"```python\n{question.reference['prompt']}{pack[field].rstrip()}\n```")
            assert task.grade(question, answer).score == score, (number, field)


def test_nothing_is_run_unless_that_is_allowed(tmp_path: Path) -> None:
    own_data(tmp_path)
    with pytest.raises(SettingError, match="--allow-code-execution"):
        make_tasks(["humaneval"], TaskOptions(tmp_path))
    tasks, left_out = make_tasks(["all"], TaskOptions(tmp_path))
    assert tasks == [] and "--allow-code-execution" in left_out["humaneval"]


def test_nothing_is_run_where_no_wall_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise SettingError("untrusted code cannot be run safely here")

    monkeypatch.setattr(model_code, "find_sandbox", refuse)
    with pytest.raises(SettingError, match="cannot be run safely here"):
        make_tasks(["humaneval"], TaskOptions(own_data(tmp_path), allow_code_execution=True))


def test_worked_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no worked examples"):
        make_tasks(["humaneval"], TaskOptions(own_data(tmp_path), shots=3, allow_code_execution=True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"entry_point": "cube"}, "line 1: the prompt has no function cube"),
        ({"prompt": "def square(x):\n    return x\n"}, "line 1: the prompt has no docstring"),
        ({"test": 3}, "line 1: the field 'test' has the wrong type"),
    ],
)
def test_a_broken_row_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        task_of(own_data(tmp_path, **changes)).questions()


def test_the_walls_are_told_before_a_run(tmp_path: Path) -> None:
    task = task_of(own_data(tmp_path))
    assert isinstance(task, Forecasting)
    lines = list(task.forecast(FakeAnswerer(lambda _question: "")))
    assert lines[0].startswith("sandbox: ") and any("network" in line for line in lines)
    assert any("3 s of CPU time" in line for line in lines), "the bounds are those of this task"
