"""The frame around all verbs: help, version, exit codes, and failures that are one line."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import qwartet as package
from qwartet.cli.chat import verb as chat_module
from qwartet.errors import CheckpointWarning
from tests.cli.command_line import CommandLine, environment, run_in_process
from tests.forked import run_forked

VERBS = (
    "chat",
    "serve",
    "pull",
    "list",
    "show",
    "verify",
    "rm",
    "inspect",
    "plan",
    "quantize",
    "run-batch",
    "convert",
    "synth",
    "doctor",
    "help",
    "config",
    "bench",
)
HEAVY = ("torch", "transformers", "fastapi", "huggingface_hub", "yaml")


def test_the_help_of_no_verb_loads_anything_heavy() -> None:
    lines = [f"run([{verb!r}, '--help'])" for verb in VERBS]
    report = f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    code = "\n".join(["import sys", "from qwartet.cli.main import run", "run(['--help'])", *lines, report])
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert result.returncode == 0, result.stderr
    assert ast.literal_eval(result.stderr) == []
    assert all(f"Usage: qwartet {verb} " in result.stdout for verb in VERBS)


def test_each_verb_is_summarised_in_a_whole_line(qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (["--help"], ["bench", "--help"]):
        lines = qwartet(*arguments).out.partition("Commands:\n")[2].splitlines()
        assert lines and all(line.endswith(".") and not line.endswith("...") for line in lines), lines


@pytest.mark.parametrize("arguments", [["help", "chat"], ["help", "bench", "latency"], ["help"]])
def test_help_is_a_verb_too(qwartet: CommandLine, arguments: list[str]) -> None:
    assert qwartet(*arguments).out == qwartet(*arguments[1:], "--help").out != ""


def test_help_on_a_typo_suggests_the_verb(qwartet: CommandLine) -> None:
    qwartet("help", "caht").assert_one_line_error("did you mean 'chat'")


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "qwartet", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert (result.returncode, result.stdout) == (0, f"qwartet {package.__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_verbs(qwartet: CommandLine, arguments: list[str]) -> None:
    outcome = qwartet(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert all(f"\n  {verb} " in outcome.out for verb in VERBS)


def test_benchmarks_are_listed_by_their_verb_alone(qwartet: CommandLine) -> None:
    outcome = qwartet("bench")
    assert (outcome.code, outcome.err) == (0, "") and outcome == qwartet("bench", "--help")


def test_the_version_is_the_package_s(qwartet: CommandLine) -> None:
    assert qwartet("--version").out == f"qwartet {package.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["caht"], "no such command 'caht'; did you mean 'chat'"),
        (["chta"], "no such command 'chta'; did you mean 'chat'"),
        (["bench", "latancy"], "no such command 'latancy'; did you mean 'latency'"),
        (["--verison"], "--verison; did you mean --version?"),
        (["chat", "--temprature", "1"], "--temprature; did you mean --temperature?"),
        (["chat", "--zzz"], "no such option: --zzz; see qwartet chat --help"),
        (["chat", "--top-k", "many"], "--top-k"),
        (["chat", "--dtype", "bf61"], "'bf16'"),
        (["chat", "--seed"], "--seed"),
        (["chat", "a", "b", "c"], "(c); see qwartet chat --help"),
        (["inspect"], "'DIR'; see qwartet inspect --help"),
        (["inspect", "a\x1b[31m\nb"], "a\\x1b[31m\\nb"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_a_suggestion(
    qwartet: CommandLine, arguments: list[str], fragment: str
) -> None:
    qwartet(*arguments).assert_one_line_error(fragment)


@pytest.mark.parametrize("arguments", [["--debug", "chat", "/nowhere"], ["chat", "/nowhere", "--debug"]])
def test_debug_adds_the_traceback_wherever_it_stands(qwartet: CommandLine, arguments: list[str]) -> None:
    outcome = qwartet(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("Traceback") and outcome.err.splitlines()[-1].startswith("error: /nowhere: ")


@pytest.mark.parametrize(("value", "is_on"), [("1", True), ("0", False), ("", False)])
def test_debug_can_come_from_the_environment(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch, value: str, is_on: bool
) -> None:
    monkeypatch.setenv("QWARTET_DEBUG", value)
    assert ("Traceback" in qwartet("chat", "/nowhere").err) is is_on


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(chat_module, "_model_and_prompt", fail)


def test_a_bug_is_one_line_that_asks_for_a_report_and_exits_with_1(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, KeyError("c_attn\nx"))
    outcome = qwartet("chat")
    assert outcome.code == 1
    assert outcome.err.startswith("error: KeyError: ") and outcome.err.count("\n") == 1 and "--debug" in outcome.err


def test_a_failed_allocation_is_one_line(qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, MemoryError())
    qwartet("chat").assert_one_line_error("out of memory")


def test_ctrl_c_exits_with_130_in_silence(qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    outcome = qwartet("chat")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")


def test_a_warning_about_a_checkpoint_is_one_inert_line(qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: object) -> None:
        warnings.warn("tensor 'a\x1b[31m\nb' is ignored", CheckpointWarning, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_module, "_model_and_prompt", warn)
    assert qwartet("chat").err == "warning: tensor 'a␛[31m␊b' is ignored\n"


def test_a_reader_that_goes_away_ends_the_command_in_silence(chat_model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code, _, err = run_forked(["inspect", "--tensors", str(chat_model)], environment(), stdout=writer)
    os.close(writer)
    assert (code, err) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_one_line(chat_model: Path) -> None:
    with open("/dev/full", "wb") as full:
        code, _, err = run_forked(["inspect", str(chat_model)], environment(), stdout=full.fileno())
    assert code == 2 and err.startswith(b"error: No space left on device; ") and err.count(b"\n") == 1


def test_an_error_of_the_system_is_one_line_where_the_output_is_no_file(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, OSError(28, "No space left on device", "/a"))
    monkeypatch.setattr("sys.stdout", io.StringIO())
    qwartet("chat").assert_one_line_error("/a: No space left on device")


def test_bytes_that_are_no_text_do_not_end_the_program() -> None:
    outcome = run_in_process("inspect", os.fsdecode(b"/nowhere/\xff\xfe"))
    outcome.assert_one_line_error("no such directory")
