"""`qwartet evaluate`: figures on stdout, answers in files, resumed after a kill; wrong options in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwartet import DEMO, LLM
from qwartet.errors import SettingError
from qwartet.evaluate.run_file import read_run
from qwartet.evaluate.tasks.code_interpreter import PACKAGES
from qwartet.sandbox.walls import NAMES, find_sandbox
from tests.cli.command_line import CommandLine, environment, run_in_process
from tests.evaluate.interpreter_data import PROBLEMS, write_data
from tests.language_gaps import english_in
from tests.server.running_server import RunningServer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """GSM8K's form with sums that the bundled model can do, and some that nobody can."""
    rows = [
        {"question": f"What is {n} + {n}?", "answer": f"Easy.\n#### {2 * n if n % 2 else 99_999}"} for n in range(1, 41)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


@pytest.fixture
def sandbox() -> None:
    try:
        find_sandbox()
    except SettingError as error:
        pytest.skip(str(error))


def test_a_task_is_run_and_its_figures_are_printed(qwartet: CommandLine, data: Path, tmp_path: Path) -> None:
    done = qwartet("evaluate", DEMO, "--tasks", "gsm8k", "--data", data, "--out", tmp_path / "run", "--device", "cpu")
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("gsm8k: 40 questions; ")
    report = json.loads((tmp_path / "run" / "results.json").read_text())
    [figure] = report["tasks"]["gsm8k"]["figures"]
    assert 30 <= figure["value"] <= 50 and figure["count"] == 40
    assert f"{figure['value']:.2f} %" in done.out
    _, records = read_run(tmp_path / "run" / "gsm8k.jsonl")
    assert figure["value"] == 100 * sum(record.score for record in records) / 40


def test_json_is_one_object(qwartet: CommandLine, data: Path, tmp_path: Path) -> None:
    arguments = ("--tasks", "gsm8k", "--limit", "4", "--data", data, "--out", tmp_path / "run", "--json")
    report = json.loads(qwartet("evaluate", DEMO, *arguments, "--device", "cpu").out)
    assert report["tasks"]["gsm8k"]["num_questions"] == 4
    assert report["answerer"]["model"] == DEMO.name


def test_a_killed_run_resumes(data: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "qwartet", "evaluate", str(DEMO), "--tasks", "gsm8k", "--data", str(data),
        "--out", str(tmp_path / "run"), "--max-num-seqs", "1", "--device", "cpu",
    ]  # fmt: skip
    file = tmp_path / "run" / "gsm8k.jsonl"
    first = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_bytes().count(b"\n") > 6):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    _, kept = read_run(file)
    assert kept
    again = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "gsm8k: 40 questions" in again.stdout
    _, records = read_run(file)
    assert len(records) == 40 and {record.id: record for record in records}[kept[0].id] == kept[0]


def test_two_runs_are_compared(qwartet: CommandLine, data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0")):
        arguments = ("--tasks", "gsm8k", "--limit", "6", "--seed", seed, "--data", data, "--out", tmp_path / name)
        qwartet("evaluate", DEMO, *arguments, "--device", "cpu")
    done = qwartet("evaluate", "compare", tmp_path / "a", tmp_path / "b")
    assert done.code == 0 and "gsm8k" in done.out and "1.000" in done.out
    report = json.loads(qwartet("evaluate", "compare", tmp_path / "a", tmp_path / "b", "--json").out)
    assert report["tasks"]["gsm8k"]["count"] == 6
    qwartet("evaluate", "compare", tmp_path / "a").assert_one_line_error("two run directories")
    qwartet("evaluate", "compare", tmp_path / "a", data).assert_one_line_error("no questions in common")


def test_a_server_is_measured_with_the_same_command(qwartet: CommandLine, data: Path, tmp_path: Path) -> None:
    common = ("--tasks", "gsm8k", "--data", data)
    with LLM(device="cpu") as llm, RunningServer(llm) as running:
        over_http = qwartet("evaluate", running.url, *common, "--out", tmp_path / "http")
    in_process = qwartet("evaluate", DEMO, *common, "--out", tmp_path / "here", "--device", "cpu")
    assert over_http.out.splitlines()[1] == in_process.out.splitlines()[1]


def test_code_of_the_bundled_model_is_run_where_that_is_allowed(
    qwartet: CommandLine, sandbox: None, tmp_path: Path
) -> None:
    """It calls a tool that it knows, with arguments that run as Python: three turns, and a wrong answer."""
    data = write_data(tmp_path, [{"query": "Hello", "tags": "general"}], PROBLEMS[:1])
    arguments = ("evaluate", DEMO, "--tasks", "code-interpreter", "--data", data, "--device", "cpu")
    refused = qwartet(*arguments, "--out", tmp_path / "run")
    refused.assert_one_line_error("code-interpreter runs code that the model has written; pass --allow-code-execution")
    done = qwartet(*arguments, "--out", tmp_path / "run", "--allow-code-execution")
    assert (done.code, done.out.splitlines()[0].partition(";")[0]) == (0, "code-interpreter: 2 questions")
    assert "executable, general" in done.out and "holds  network" in done.err and "not judged" in done.err
    records = {record.id: record for record in read_run(tmp_path / "run" / "code-interpreter.jsonl")[1]}
    assert records["math/0"].details["cells"] > 0 and "Observation: " in records["math/0"].answer
    with LLM(device="cpu") as llm, RunningServer(llm) as running:
        over_http = qwartet(
            "evaluate", running.url, *arguments[2:6], "--out", tmp_path / "http", "--allow-code-execution"
        )
    assert over_http.out.splitlines()[1:] == done.out.splitlines()[1:]
    found = {record.id: record for record in read_run(tmp_path / "http" / "code-interpreter.jsonl")[1]}
    assert {id: one.answer for id, one in found.items()} == {id: one.answer for id, one in records.items()}


def test_the_walls_are_told_in_the_users_language(sandbox: None, tmp_path: Path) -> None:
    data = write_data(tmp_path, [{"query": "Hello", "tags": "general"}], PROBLEMS[:1])
    told = run_in_process(
        "evaluate", DEMO, "--tasks", "code-interpreter", "--data", data, "--out", tmp_path / "run", "--device", "cpu",
        "--allow-code-execution", "--limit", "1", LANG="zh_CN.UTF-8",
    )  # fmt: skip
    assert told.code == 0, told.err
    walls = told.err.splitlines()[: 1 + len(NAMES)]
    assert walls[0].startswith("沙箱：") and all(line.startswith("  有效  ") for line in walls[1:]), walls
    assert [line for line in told.err.splitlines() if english_in(line, frozenset(PACKAGES))] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--tasks", "gms8k"), "unknown task 'gms8k'; did you mean gsm8k?"),
        (("--tasks", ","), "no task named"),
        (("--tasks", "gsm8k", "--data", "/nowhere"), "/nowhere: no gsm8k_test.jsonl or test.jsonl"),
        (("--tasks", "all", "--data", "/nowhere"), "/nowhere: no such directory"),
        (("--tasks", "gsm8k", "--limit", "0"), "--limit is 0"),
        (("--tasks", "mmlu", "--shots", "-1"), "--shots is -1"),
        (("extra",), "unexpected argument 'extra'"),
    ],
)
def test_a_wrong_option_is_one_line(
    qwartet: CommandLine, data: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    common = () if "--data" in arguments else ("--data", data)
    qwartet("evaluate", DEMO, *arguments, *common, "--out", tmp_path / "run").assert_one_line_error(reason)
    assert not (tmp_path / "run").exists()


def test_a_question_that_does_not_fit_is_told_before_the_run(qwartet: CommandLine, data: Path, tmp_path: Path) -> None:
    rows = [{"question": "What is 1 + 1?", "answer": "#### 2"}, {"question": "word " * 5000, "answer": "#### 2"}]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = qwartet("evaluate", DEMO, "--tasks", "gsm8k", "--data", data, "--out", tmp_path / "run", "--device", "cpu")
    done.assert_one_line_error("question gsm8k/1: the prompt has")
    assert not (tmp_path / "run" / "gsm8k.jsonl").exists()
