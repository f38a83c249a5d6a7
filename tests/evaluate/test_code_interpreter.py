"""The code interpreter: published prompts, turns and figures, with code that runs in the sandbox and known answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwartet.errors import DataError, SettingError
from qwartet.evaluate import model_code
from qwartet.evaluate.forecast import Forecasting
from qwartet.evaluate.question import Answer, Chat, Grade, Question, Record
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.run_file import read_run
from qwartet.evaluate.tasks import code_interpreter
from qwartet.evaluate.tasks.code_interpreter import CodeInterpreter
from qwartet.evaluate.tasks.registry import TaskOptions, make_tasks
from qwartet.sandbox.walls import find_sandbox
from tests.evaluate.fake import FakeAnswerer
from tests.evaluate.interpreter_data import CHART, EASY, PROBLEMS, QUERIES, code, final, turn, write_data

INSTRUCTION = (
    "Answer the following questions as best you can. You have access to the following tools:\n\n"
    "code_interpreter: Call this tool to interact with the 代码解释器 API. What is the 代码解释器 API useful for? "
    "代码解释器，可用于执行Python代码。 "
    'Parameters: [{"name": "code", "type": "string", "description": "待执行的代码"}] '
    "Enclose the code within triple backticks (`) at the beginning and end of the code.\n\n"
    "Use the following format:\n\n"
    "Question: the input question you must answer\n"
    "Thought: you should always think about what to do\n"
    "Action: the action to take, should be one of [code_interpreter]\n"
    "Action Input: the input to the action\n"
    "Observation: the result of the action\n"
    "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
    "Thought: I now know the final answer\n"
    "Final Answer: the final answer to the original input question\n\n"
    "Begin!\n\nQuestion: "
)


@pytest.fixture(autouse=True)
def _only_with_a_sandbox() -> None:
    try:
        find_sandbox()
    except SettingError as error:
        pytest.skip(str(error))


def task_of(directory: Path) -> CodeInterpreter:
    [task], _ = make_tasks(["code-interpreter"], TaskOptions(directory, allow_code_execution=True))
    assert isinstance(task, CodeInterpreter)
    return task


def records(directory: Path) -> dict[str, Record]:
    return {record.id: record for record in read_run(directory / "code-interpreter.jsonl")[1]}


def asked(task: CodeInterpreter) -> dict[str, Chat]:
    return {one.id: one.request for one in task.questions() if isinstance(one.request, Chat)}


def test_the_prompts_are_the_published_ones(tmp_path: Path) -> None:
    found = asked(task_of(write_data(tmp_path)))
    assert list(found) == ["math/0", "math/1", "visualization/0", "visualization/1", "general/2", "general/3"]
    users = {id: "".join(message.content for message in one.messages) for id, one in found.items()}
    assert users["math/0"] == INSTRUCTION + "What is 3 + 4?"
    assert users["visualization/0"] == INSTRUCTION + CHART
    assert users["visualization/1"] == INSTRUCTION + "Plot y"
    assert users["general/2"] == INSTRUCTION + "[Upload file a.csv, b.csv]Count the rows."
    assert users["general/3"] == INSTRUCTION + "[上传文件a.csv]数一数"
    assert [one.answer_start for one in found.values()].count("") == 5
    assert found["visualization/1"].answer_start == EASY.partition("assistant\n")[2]
    for one in found.values():
        assert (one.stop, one.repetition_penalty, one.max_tokens) == (("Observation:",), 1.1, 512)
        assert [message.role for message in one.messages] == ["user"]


ANSWERS = {
    # right, by what the code prints; then wrong, though the code has the right number
    "math/0": [code("x = 3 + 4", "print(x)"), final("It is 7.")],
    "math/1": [code("print(30 * 5)"), final("It is 151.")],
    # three turns, of which the later ones use what the first has made
    "visualization/0": [
        code("import json", "data = [1, 2]"),
        code("data.append(3)", "data", thought="More."),
        code("print(sum(data))", thought="Sum."),
    ],
    # with what the question's own beginning has made
    "visualization/1": [code("print(y[1])", thought="Show it."), final("Done.")],
    "general/2": [code("rows = open('upload/a.csv').read().split()", "len(rows)")],  # the path of the data
    "general/3": [code("open('missing.csv')")],
}


def test_known_answers_give_the_known_figures(tmp_path: Path) -> None:
    answerer = FakeAnswerer(turn(ANSWERS))
    result = run_task(task_of(write_data(tmp_path)), answerer, RunSettings(tmp_path))
    assert {one.name: (one.value, one.count) for one in result.figures} == {
        "math accuracy": (50.0, 2),
        "executable, visualization": (100.0, 2),
        "executable, vis-hard": (100.0, 1),
        "executable, vis-easy": (100.0, 1),
        "executable, general": (50.0, 2),
    }
    assert result.figures[0].name == "math accuracy" and result.num_errors == 0
    assert {one: answerer.asked.count(one) for one in answerer.asked} == {
        "math/0": 2, "math/1": 2, "visualization/0": 3, "visualization/1": 2, "general/2": 1, "general/3": 1,
    }  # fmt: skip
    found = records(tmp_path)
    assert [found[f"math/{n}"].extracted for n in (0, 1)] == ["7", "151"]
    assert found["visualization/0"].details == {"cells": 3, "verdict": "ran", "message": ""}
    assert found["general/3"].details["verdict"] == "raised"
    assert found["general/3"].details["message"].startswith("FileNotFoundError")
    assert found["general/3"].extracted == "open('missing.csv')\n"


def test_a_record_holds_the_whole_exchange(tmp_path: Path) -> None:
    run_task(task_of(write_data(tmp_path)), FakeAnswerer(turn(ANSWERS)), RunSettings(tmp_path))
    found = records(tmp_path)
    assert found["visualization/0"].prompt == [{"role": "user", "content": INSTRUCTION + CHART}]
    assert found["visualization/0"].answer == (
        "Thought: I run it.\nAction: code_interpreter\nAction Input:\n```py\nimport json\ndata = [1, 2]\n```\n"
        "Observation: \n"
        "Thought:Thought: More.\nAction: code_interpreter\nAction Input:\n```py\ndata.append(3)\ndata\n```\n"
        "Observation: execute_result:\n\n```\n[1, 2, 3]\n```\n"
        "Thought:Thought: Sum.\nAction: code_interpreter\nAction Input:\n```py\nprint(sum(data))\n```\n"
        "Observation: stdout:\n\n```\n6\n\n```\n"
        "Thought:"
    )
    assert found["math/0"].answer.endswith("\nThought: I now know the final answer.\nFinal Answer: It is 7.")
    begun = found["visualization/1"].prompt[-1]
    assert begun["role"] == "assistant" and begun["content"].endswith("Observation: \nThought:")
    assert "stdout:\n\n```\n2\n\n```" in found["visualization/1"].answer


def test_each_turn_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    seen: list[Question] = []
    reply = turn(ANSWERS)
    answerer = FakeAnswerer(lambda question: seen.append(question) or reply(question))
    run_task(task_of(write_data(tmp_path)), answerer, RunSettings(tmp_path))
    whole = records(tmp_path)
    for question in seen:
        request, record = question.request, whole[question.id]
        assert isinstance(request, Chat)
        begun = record.prompt[-1]["content"] if record.prompt[-1]["role"] == "assistant" else ""
        assert (begun + record.answer).startswith(request.answer_start)
        assert [message.content for message in request.messages] == [record.prompt[0]["content"]]
    starts = [one.request.answer_start for one in seen if one.id == "visualization/0"]
    assert [start.count("Observation:") for start in starts] == [0, 1, 2]


def graded(task: CodeInterpreter, id: str, *answers: str) -> Grade | Question:
    """What comes of these answers to a question, one after another."""
    current: Grade | Question = next(one for one in task.questions() if one.id == id)
    for answer in answers:
        assert isinstance(current, Question), "the exchange is over"
        current = task.grade(current, Answer(answer))
    return current


def grade(task: CodeInterpreter, id: str, *answers: str) -> Grade:
    found = graded(task, id, *answers)
    assert isinstance(found, Grade)
    return found


def test_an_exchange_ends_after_the_published_number_of_runs(tmp_path: Path) -> None:
    task, ones = task_of(write_data(tmp_path)), [code("1")] * 3
    for id in ("math/0", "visualization/0", "visualization/1"):
        assert isinstance(graded(task, id, *ones[:2]), Question)
        assert grade(task, id, *ones).details["cells"] == 3
    assert grade(task, "general/2", *ones[:1]).details["cells"] == 1


@pytest.mark.parametrize(
    "lines",
    [
        ("1 / 0",),
        ("def f(:",),
        ("print('an error: none')",),  # as published: what is printed counts, too
        ("print('Traceback')",),
        ("import os", "os._exit(0)"),
        ("raise SystemExit",),
    ],
)
def test_an_error_ends_an_exchange(tmp_path: Path, lines: tuple[str, ...]) -> None:
    task = task_of(write_data(tmp_path))
    found = grade(task, "visualization/0", code(*lines))
    assert found.score == float(lines[0].startswith("print")) and found.exchange is not None
    assert found.exchange.endswith("\n```\nThought:")


def test_only_the_first_code_of_a_chart_counts(tmp_path: Path) -> None:
    task = task_of(write_data(tmp_path))
    assert grade(task, "visualization/0", code("x = 1"), code("1 / 0")).score == 1.0
    assert grade(task, "visualization/0", code("1 / 0")).score == 0.0
    found = grade(task, "visualization/0", "Thought: no.\nFinal Answer: a chart")
    assert (found.score, found.extracted, found.details["verdict"]) == (0.0, None, "no code")


def test_code_before_the_answer_that_fails_makes_the_chart_fail(tmp_path: Path) -> None:
    queries = [{"query": EASY.replace("y = [1, 2]", "y = [1, 2"), "tags": "visualization"}]
    task = task_of(write_data(tmp_path, queries))
    found = grade(task, "visualization/0", code("print(1)"), final("done"))
    assert (found.score, found.details["verdict"]) == (0.0, "raised") and "SyntaxError" in found.details["message"]


def test_the_last_number_of_the_whole_exchange_counts(tmp_path: Path) -> None:
    task = task_of(write_data(tmp_path))
    assert grade(task, "math/0", "Final Answer: 7").score == 1.0
    assert grade(task, "math/0", "Final Answer: seven").extracted is None
    runs = [code("print('it is', 7, 'now')")] * 3
    found = grade(task, "math/0", *runs)
    assert (found.score, found.extracted) == (1.0, "7"), "an observation is a part of it"


def test_a_solution_that_is_not_called_is_called(tmp_path: Path) -> None:
    lines = ("def solution():", "    return 3 + 4")
    found = graded(task_of(write_data(tmp_path)), "math/0", code(*lines))
    assert isinstance(found, Question) and isinstance(found.request, Chat)
    assert found.request.answer_start.endswith("Observation: execute_result:\n\n```\n7\n```\nThought:")
    assert "solution()\n```" not in found.request.answer_start, "the model sees what it wrote"


def test_variables_stay_within_their_question(tmp_path: Path) -> None:
    task = task_of(write_data(tmp_path))
    assert isinstance(graded(task, "visualization/0", code("data = 1"), code("print(data)")), Question)
    assert grade(task, "math/0", code("print(data)")).details["message"] == "NameError: name 'data' is not defined"


def test_files_are_copies_for_each_turn(tmp_path: Path) -> None:
    task = task_of(write_data(tmp_path))
    path = tmp_path / "code-interpreter/upload_file_clean/a.csv"
    for line in ("open('a.csv').read()", "import csv; list(csv.reader(open('upload/a.csv')))"):
        found = grade(task, "general/2", code(line))
        assert found.score == 1.0 and "3" in str(found.exchange), found
    before = path.read_bytes()
    lines = ("import os", "os.chmod('a.csv', 0o600)", "open('a.csv', 'w').write('mine')")
    assert grade(task, "general/2", code(*lines)).score == 1.0
    assert path.read_bytes() == before
    assert "FileNotFoundError" in grade(task, "general/2", code("open('b.csv')")).details["message"]


def test_what_the_published_session_has_imported_is_there(tmp_path: Path) -> None:
    for package in ("pandas", "matplotlib", "sympy"):
        pytest.importorskip(package)
    lines = (
        "print(math.pi > 3, re.sub('a', 'b', 'a'), json.dumps([1]))",
        "print(np.arange(3).sum(), pd.DataFrame({'a': [1]}).shape, solve(Eq(symbols('x') + 1, 3)))",
        "plt.plot([1, 2])",
        "plt.show()",
    )
    found = graded(task_of(write_data(tmp_path)), "visualization/0", code(*lines))
    assert isinstance(found, Question) and isinstance(found.request, Chat)
    observed = found.request.answer_start.partition("Observation: ")[2]
    assert observed == (
        "stdout:\n\n```\nTrue b [1]\n3 (1, 1) [2]\n\n```\n\n![fig-001](/tmp/workspace/fig-001.png)\nThought:"
    )


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    random = ("import random", "print(random.random(), np.random.rand(), {'a', 'b', 'c'})")
    answers = {**ANSWERS, "math/0": [code(*random), code(*random), final("7")]}
    for name in ("one", "two"):
        run_task(task_of(data), FakeAnswerer(turn(answers)), RunSettings(tmp_path / name))
    one, two = ((tmp_path / name / "code-interpreter.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_part_without_data_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    write_data(tmp_path)
    answerer: Any = FakeAnswerer(lambda _question: "")
    task = task_of(tmp_path)
    assert isinstance(task, Forecasting)
    lines = list(task.forecast(answerer))
    assert lines[0].startswith("sandbox: ") and any("30 s a program or cell" in line for line in lines)
    assert any("charts are not judged" in line for line in lines)
    assert any("1 of 2 files not found" in line for line in lines)
    (tmp_path / "gsm8k/test.jsonl").unlink()
    task = task_of(tmp_path)
    assert len(task.questions()) == 4 and any("math is left out" in line for line in task.forecast(answerer))
    result = run_task(task, FakeAnswerer(turn(ANSWERS)), RunSettings(tmp_path))
    assert result.figures[0].name == "executable, visualization"
    (tmp_path / "code-interpreter/eval_code_interpreter_v1.jsonl").unlink()
    with pytest.raises(DataError, match=r"neither eval_code_interpreter_v1\.jsonl nor test\.jsonl"):
        task_of(tmp_path)
    (tmp_path / "gsm8k/test.jsonl").write_text(json.dumps(PROBLEMS[0]) + "\n")
    task = task_of(tmp_path)
    assert len(task.questions()) == 1
    assert any("visualization and general are left out" in line for line in task.forecast(answerer))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_interpreter, "PACKAGES", ("numpy", "no-such-package"))
    task = task_of(write_data(tmp_path))
    assert any("no-such-package not installed" in line for line in task.forecast(FakeAnswerer(lambda _: "")))  # type: ignore[arg-type]
    assert task.settings["packages"]["no-such-package"] is None and task.settings["packages"]["numpy"]


def test_nothing_is_run_unless_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    with pytest.raises(SettingError, match=r"code-interpreter runs code .*--allow-code-execution"):
        make_tasks(["code-interpreter"], TaskOptions(tmp_path))
    assert "--allow-code-execution" in make_tasks(["all"], TaskOptions(tmp_path))[1]["code-interpreter"]
    with pytest.raises(SettingError, match="no worked examples"):
        make_tasks(["code-interpreter"], TaskOptions(tmp_path, shots=3, allow_code_execution=True))

    def refuse() -> None:
        raise SettingError("untrusted code cannot be run safely here")

    monkeypatch.setattr(model_code, "find_sandbox", refuse)
    with pytest.raises(SettingError, match="cannot be run safely here"):
        task_of(tmp_path)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": "a", "tags": ["general"]}, "line 2: the field 'tags' has the wrong type"),
        ({"query": "a"}, "line 2: the field 'tags' is missing"),
        ({"query": "a", "tags": "general", "lang": "fr"}, "line 2: lang is 'fr'"),
        ({"query": "a", "tags": "general", "lang": ["en"]}, "line 2: lang is"),
        ({"query": "a", "tags": "general", "input_file_path": "a.csv"}, "line 2: the field 'input_file_path'"),
        ({"query": "a", "tags": "general", "input_file_path": ["a", 1]}, "line 2: the field 'input_file_path'"),
        ({"query": "a", "tags": "general", "input_file_path": [".."]}, "line 2: the field 'input_file_path'"),
        ({"query": "a", "tags": "general", "input_file_path": [""]}, "line 2: the field 'input_file_path'"),
        ({"query": "<|im_start|>a", "tags": "general"}, "line 2: the query is neither"),
        ({"query": f"{EASY}<|im_end|>", "tags": "general"}, "line 2: the query is neither"),
    ],
)
def test_a_broken_row_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        task_of(write_data(tmp_path, [QUERIES[0], row])).questions()


def test_a_solution_without_a_number_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: the answer does not end in"):
        task_of(write_data(tmp_path, problems=[PROBLEMS[0], {"question": "?", "answer": "none"}])).questions()


KILLED = """
import os, signal, sys
from pathlib import Path
from qwartet.evaluate.run import RunSettings, run_task
from tests.evaluate.fake import FakeAnswerer
from tests.evaluate.interpreter_data import turn
from tests.evaluate.test_code_interpreter import ANSWERS, task_of

directory, reply = Path(sys.argv[1]), turn(ANSWERS)

def killed(question):
    if question.id == "visualization/0" and question.request.answer_start:
        os.kill(os.getpid(), signal.SIGKILL)
    return reply(question)

run_task(task_of(directory), FakeAnswerer(killed), RunSettings(directory))
"""


def test_a_run_killed_within_an_exchange_resumes(tmp_path: Path) -> None:
    write_data(tmp_path)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, env=environment, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    kept = records(tmp_path)
    assert "visualization/0" not in kept
    answerer = FakeAnswerer(turn(ANSWERS))
    run_task(task_of(tmp_path), answerer, RunSettings(tmp_path))
    assert answerer.asked.count("visualization/0") == 3 and not set(kept) & set(answerer.asked)
    run_task(task_of(tmp_path), FakeAnswerer(turn(ANSWERS)), RunSettings(tmp_path / "whole"))
    whole, resumed = ((path / "code-interpreter.jsonl").read_bytes() for path in (tmp_path / "whole", tmp_path))
    assert whole == resumed
