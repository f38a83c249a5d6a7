"""Every key that docs/chat.md lists, on a pseudo-terminal: what reaches the model, and the conversation goes on."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import Terminal
from tests.client.scripted_server import ScriptedServer, Waits, answer

PROMPT = r"\x1b\[\?2004h"  # bracketed paste is turned on: the line editor waits for keys
DOCUMENT = Path(__file__).parents[2] / "docs" / "chat.md"

# What the table calls a key -> what is typed, and the message that is sent then. One key may have several rows.
KEYS = {
    "Enter": [("one\r", "one")],
    "Alt+Enter": [("one\x1b\rtwo\r", "one\ntwo")],
    '`"""`': [('"""one\rtwo"""\r', "one\ntwo")],
    "paste": [("\x1b[200~one\ntwo\x1b[201~\r", "one\ntwo")],
    "Tab": [("/sys\tbe brief\rhello\r", "hello")],
    "Up, Down": [("\x1b[A\r", "the second"), ("\x1b[A\x1b[A\x1b[B\r", "the second"), ("\x1b[A\x1b[A\r", "the first")],
    "Ctrl-R": [("\x12fir\r\r", "the first"), ("draft\x12fir\x03\r", "draft"), ("\x12no such line\x03ok\r", "ok")],
    "Ctrl-X Ctrl-E": [("draft\x18\x05", "draft, edited")],
    "Ctrl-C": [("one\x03two\r", "two"), ("one\x03\x1f\r", "one"), ("\x03one\r", "one")],
    "Ctrl-D": [],
}


@pytest.fixture
def terminal(scripted: ScriptedServer, tmp_path: Path) -> Iterator[Terminal]:
    """A conversation in which two messages have been sent; the editor of Ctrl-X Ctrl-E adds a word."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "%s" "$(cat "$1"), edited" > "$1"\n')
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    changes = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(tmp_path), "VISUAL": str(editor)}
    with Terminal("chat", "--url", scripted.url, **changes) as terminal:
        for message in ("the first", "the second"):
            terminal.expect(PROMPT)
            terminal.send(f"{message}\r")
            terminal.expect("HELLO\r\n")
        terminal.expect(PROMPT)
        yield terminal


def last_message(scripted: ScriptedServer) -> str:
    return str(scripted.chat_bodies[-1]["messages"][-1]["content"])


@pytest.mark.parametrize(("keys", "message"), [row for rows in KEYS.values() for row in rows])
def test_a_key_does_what_the_document_says(
    terminal: Terminal, scripted: ScriptedServer, keys: str, message: str
) -> None:
    terminal.send(keys)
    terminal.expect("HELLO\r\n")
    assert last_message(scripted) == message
    terminal.expect(PROMPT)
    terminal.send("goes on\r")
    terminal.expect("HELLO\r\n")
    terminal.expect(PROMPT)
    terminal.send("\x04")
    assert terminal.wait() == 0


def test_ctrl_c_stops_an_answer_that_is_then_not_kept(terminal: Terminal, scripted: ScriptedServer) -> None:
    scripted.chat = [Waits("HEL"), answer("HELLO")]
    terminal.send("hello\r")
    terminal.expect("HEL")
    terminal.interrupt(r"\(Stopped\. This turn is not kept\.\)\r\n")
    terminal.expect(PROMPT)
    terminal.send("goes on\r")
    terminal.expect("HELLO\r\n")
    assert "hello" not in [message["content"] for message in scripted.chat_bodies[-1]["messages"]]


def test_the_document_lists_these_keys() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition("## Keys")[2].partition("## ")[0]
    listed = re.findall(r"^\| (?!\|)([^|]+?) \|", table, re.MULTILINE)
    assert listed == list(KEYS)
