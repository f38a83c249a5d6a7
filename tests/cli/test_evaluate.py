"""`qwartet evaluate`: figures on stdout, answers in files, resumed after a kill; wrong options in one line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from qwartet import DEMO, LLM
from qwartet.errors import SettingError
from qwartet.evaluate.data.hub_copies import HUB_COPIES
from qwartet.evaluate.run_file import read_run
from qwartet.evaluate.tasks.code_interpreter import PACKAGES
from qwartet.evaluate.tasks.mmlu import SUBJECTS
from qwartet.sandbox.walls import NAMES, find_sandbox
from tests.cli.command_line import CommandLine, environment, run_in_process
from tests.evaluate.fetching.hub_datasets import hub_copy, made_up
from tests.evaluate.interpreter_data import PROBLEMS, write_data
from tests.hub.fake_hub import FakeHub
from tests.language_gaps import english_in
from tests.server.running_server import RunningServer

ROW = b"What is 1 + 1?,1,2,3,4,B\n" * 5


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


def test_a_published_archive_is_unpacked_once_and_a_hostile_one_is_one_line(
    qwartet: CommandLine, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for split in ("dev", "test"):
            for subject in SUBJECTS:
                info = tarfile.TarInfo(f"data/{split}/{subject}_{split}.csv")
                info.size = len(ROW)
                archive.addfile(info, io.BytesIO(ROW))
    asked = ("--tasks", "mmlu", "--data", tmp_path, "--limit", "2", "--out", tmp_path / "run", "--device", "cpu")
    done = qwartet("evaluate", DEMO, *asked)
    line = f"unpacked {tmp_path / 'data.tar'}: 114 files in {tmp_path / 'mmlu'}"
    assert done.code == 0 and done.err.splitlines().count(line) == 1 and "mmlu: 2 questions" in done.out
    assert "unpacked" not in qwartet("evaluate", DEMO, *asked).err
    with zipfile.ZipFile(tmp_path / "ceval-exam.zip", "w") as zipped:
        zipped.writestr("../\x1b[2Jup", b"x")
    hostile = qwartet("evaluate", DEMO, "--tasks", "ceval", "--data", tmp_path, "--out", tmp_path / "other")
    hostile.assert_one_line_error(f"{tmp_path / 'ceval-exam.zip'}: not unpacked (the member '../")
    assert "\x1b" not in hostile.err and not (tmp_path / "other").exists()


def test_data_is_fetched_with_the_variables_of_the_hub_and_then_evaluated_without_it(tmp_path: Path) -> None:
    files = hub_copy("gsm8k", made_up("gsm8k", tmp_path / "original"))
    copy = HUB_COPIES["gsm8k"]
    with FakeHub({f"datasets/{copy.dataset}": files}, copy.revision).serving() as hub:
        # A new interpreter, since the libraries read most of the variables when they are imported.
        hub_is = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_own"}
        own = {**hub_is, "NO_PROXY": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
        words = ("evaluate", "fetch", "gsm8k", "--data", tmp_path / "data")
        offline = run_in_process(*words, **own)
        offline.assert_one_line_error("openai/gsm8k: the hub may not be used offline; unset HF_HUB_OFFLINE")
        assert hub.num_requests == 0 and not (tmp_path / "data").exists()
        done = run_in_process(*words, **own, HF_HUB_OFFLINE="0")
        line = (
            f"gsm8k: 1,319 rows of openai/gsm8k, commit {copy.revision[:7]}, written to {tmp_path / 'data' / 'gsm8k'}\n"
        )
        assert (done.code, done.out) == (0, line), done
        assert "100" not in done.err or "downloaded" in done.err
        assert hub.tokens == {"Bearer hf_own"}
        again = run_in_process(*words, "--json", **own, HF_HUB_OFFLINE="0")
        [found] = json.loads(again.out)
        assert found["name"] == "gsm8k" and found["commit"] == ""
        num_requests = hub.num_requests
        run = ("--data", tmp_path / "data", "--limit", "1", "--out", tmp_path / "run", "--device", "cpu")
        asked = run_in_process("evaluate", DEMO, "--tasks", "gsm8k", *run, **own, HF_HUB_OFFLINE="0")
        assert asked.code == 0 and "gsm8k: 1 questions" in asked.out
        missing = run_in_process("evaluate", DEMO, "--tasks", "mmlu", *run, **own, HF_HUB_OFFLINE="0")
        missing.assert_one_line_error("no folder test/ here; ", "qwartet evaluate fetch")
        assert hub.num_requests == num_requests, "evaluating asks the network for nothing"
    assert (tmp_path / "data" / "gsm8k" / "test.jsonl").read_bytes() == (
        tmp_path / "original" / "test.jsonl"
    ).read_bytes()


def test_wrong_words_after_fetch_are_one_line(qwartet: CommandLine, tmp_path: Path) -> None:
    qwartet("evaluate", "fetch", "tools", "--data", tmp_path).assert_one_line_error(
        "cannot fetch 'tools'; choose from ceval, mmlu, gsm8k, humaneval, leval or all"
    )
    (tmp_path / "mmlu" / "dev").mkdir(parents=True)
    qwartet("evaluate", "fetch", "mmlu", "--data", tmp_path).assert_one_line_error("has dev but not test; pass --over")
    (tmp_path / "mmlu" / "test").mkdir()
    done = qwartet("evaluate", "fetch", "mmlu", "--data", tmp_path)
    assert done.out == f"mmlu: {tmp_path / 'mmlu'} already has it; pass --overwrite to replace it\n" and not done.err
