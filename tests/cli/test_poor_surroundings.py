"""Terminals that are narrow, without colours or without a cursor, and an installation without kernels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from qwartet import DEMO
from tests.cli.command_line import CommandLine, Terminal
from tests.cli.test_chat_url import EDITOR
from tests.client.scripted_server import ScriptedServer, answer

MARKDOWN = "# Title\n\n`code` and **bold** [link](https://example.org)\n\n```python\nx = 1\n```"
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


def batch(directory: Path) -> tuple[Path, Path]:
    """A file of three requests, and the name of their answers."""
    body = {"prompt": "hello", "max_tokens": 2}
    lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/completions", "body": body} for n in range(3)]
    source = directory / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return source, directory / "out.jsonl"


def talked(server: ScriptedServer, directory: Path, **changes: str) -> str:
    """What a conversation of one answer shows on a terminal with a line editor."""
    server.chat = [answer(MARKDOWN)]
    kept = {"PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(directory), **changes}
    with Terminal("chat", "--url", server.url, **kept) as terminal:
        shown = terminal.expect(EDITOR)
        terminal.send("hello\r")
        shown += terminal.expect(r"x = (\x1b\[[0-9;]*m)?1") + terminal.expect(EDITOR)
        terminal.send("\x04")
        shown += terminal.rest()
        assert terminal.wait() == 0
    return shown


def test_a_terminal_that_cannot_redraw_gets_lines_of_progress(tmp_path: Path) -> None:
    with Terminal("run-batch", *batch(tmp_path), "--device", "cpu", TERM="dumb") as terminal:
        terminal.expect("1 of 3 answered")
        shown = terminal.expect("3 done, 0 failed; ")
        assert "3 of 3 answered" in shown and "\x1b" not in shown
        assert terminal.wait() == 0


def test_a_terminal_that_cannot_redraw_gets_lines_of_an_evaluation(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(3)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--tasks", "gsm8k", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu")
    with Terminal("evaluate", str(DEMO), *options, TERM="dumb") as terminal:
        terminal.expect("gsm8k: 1 / 3")
        assert "\x1b" not in terminal.expect("accuracy")
        assert terminal.wait() == 0


def test_a_terminal_of_20_columns_gets_a_bar_and_a_conversation(scripted: ScriptedServer, tmp_path: Path) -> None:
    with Terminal("run-batch", *batch(tmp_path), "--device", "cpu", TERM="xterm", COLUMNS="20") as terminal:
        terminal.expect("requests ")
        terminal.expect("3 done, 0 failed; ")
        assert terminal.wait() == 0
    shown = talked(scripted, tmp_path, TERM="xterm", COLUMNS="20")
    assert "Title" in shown and "Traceback" not in shown and "error" not in shown


def test_rendered_markdown_reaches_the_terminal_and_shows_no_sequence_as_text(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    shown = talked(scripted, tmp_path, TERM="xterm-256color")
    assert "\x1b[1mbold\x1b[0m" in shown and "␛" not in shown


def test_help_fits_into_20_columns(qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    for verb in ("chat", "serve"):
        outcome = qwartet(verb, "--help")
        assert (outcome.code, outcome.err) == (0, "") and "--max-model-len" in outcome.out


@pytest.mark.parametrize(("no_color", "is_coloured"), [("", True), ("1", False)])
def test_no_color_leaves_no_colours(scripted: ScriptedServer, tmp_path: Path, no_color: str, is_coloured: bool) -> None:
    shown = talked(scripted, tmp_path, TERM="xterm-256color", NO_COLOR=no_color)
    assert (COLOUR.search(shown) is not None) is is_coloured


def test_without_kernels_one_warning_says_what_to_install(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QWARTET_CPU_ISA", raising=False)
    monkeypatch.setattr("qwartet.kernels.select.native_library", lambda: None)
    monkeypatch.setattr("qwartet.kernels.cpu.library.unavailable_reason", lambda: "install a C++ compiler")
    arguments = ("chat", "-p", "hello", "--greedy", "--max-tokens", "2", "--device", "cpu", "-q")
    outcome = qwartet(*arguments)
    assert outcome.code == 0 and outcome.err.count("\n") == 1, outcome
    assert outcome.err.startswith("warning: the native CPU kernels are missing") and "C++ compiler" in outcome.err
    monkeypatch.setenv("QWARTET_CPU_ISA", "none")
    assert qwartet(*arguments).err == "", "this was asked for"
