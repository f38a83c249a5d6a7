"""Answers on a terminal: Markdown is rendered block by block, and what stands there in the end is the whole answer."""

from __future__ import annotations

import io
import re
import sys

import pytest

from qwartet.cli.chat.answer_view import MarkdownView, PlainView, answer_view
from qwartet.tokenizer.answer_delta import AnswerDelta
from tests.screen import Screen

TEXT = """Here is a **list**:

- one `code`
- two

```python
def f(x):

    return x * 2
```

A poem
in two lines, 你好。

| a | b |
|---|---|
| 1 | 2 |"""

SHOWN = """Here is a list:

 • one code
 • two

 def f(x):

     return x * 2

A poem
in two lines, 你好。

 a  b
 ────
 1  2
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("qwartet.cli.chat.answer_view.REFRESH_S", 0)  # drawn again with every piece
    return Terminal()


def shown(terminal: Terminal, text: str, size: int, rows: int, columns: int = 60) -> str:
    view = MarkdownView(terminal)
    view._console.size = (columns, rows)  # type: ignore[assignment]
    for start in range(0, len(text), size):
        view.show(text[start : start + size])
    view.end()
    return Screen(rows, columns).feed(terminal.getvalue())


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("rows", [24, 4])
def test_an_answer_is_rendered_whatever_its_pieces_and_the_height(terminal: Terminal, size: int, rows: int) -> None:
    assert re.sub(r" +$", "", shown(terminal, TEXT, size, rows), flags=re.MULTILINE) == SHOWN


@pytest.mark.parametrize(
    "text", ["```\ncode without an end", "**bold", "- ", "# ", "|", "~~~", "`", "[a](x", "1.", "---"]
)
def test_an_answer_that_is_cut_anywhere_is_shown(terminal: Terminal, text: str) -> None:
    assert set(re.findall(r"[a-z0-9]", text)) <= set(shown(terminal, text, 1, 24))


def test_a_line_wider_than_the_terminal_is_wrapped_and_drawn_once(terminal: Terminal) -> None:
    words = " ".join(f"word{number}" for number in range(60))
    assert shown(terminal, words, 4, 5, columns=20).split() == words.split()


def test_width_1_and_empty_answers_do_no_harm(terminal: Terminal) -> None:
    assert shown(terminal, "", 1, 5) == "\n"
    assert shown(terminal, "你好", 1, 5, columns=2) == "\n你\n好\n"


def test_no_text_steers_the_terminal(terminal: Terminal) -> None:
    shown(terminal, "a \x1b]0;title\x07 b\x9b31m\n\n[link](https://example.org)", 1, 24)
    sequences = set(re.findall(r"\x1b(?!\[[0-9;]*[mFJ])..", terminal.getvalue()))
    assert not sequences and "\x9b" not in terminal.getvalue() and "\x07" not in terminal.getvalue()


def test_a_pipe_a_plain_terminal_and_no_markdown_get_the_text(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    assert isinstance(answer_view(True).text_view, MarkdownView)
    assert isinstance(answer_view(False).text_view, PlainView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(answer_view(True).text_view, PlainView)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert isinstance(answer_view(True).text_view, PlainView)


THINKING = [AnswerDelta(reasoning="Hm,\x1b[2J"), AnswerDelta(reasoning=" yes."), AnswerDelta("Oslo"), AnswerDelta(".")]


def seen(stream: io.StringIO, deltas: list[AnswerDelta], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stdout", stream)
    view = answer_view(False)
    for delta in deltas:
        view.show(delta)
    view.end()
    return stream.getvalue()


def test_thinking_is_dimmed_and_inert_on_a_terminal_and_left_out_elsewhere(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    dimmed = "\x1b[2mHm,\u241b[2J yes.\x1b[0m\n\n"
    assert seen(terminal, THINKING, monkeypatch) == f"{dimmed}Oslo.\n"
    assert seen(Terminal(), THINKING[:2], monkeypatch) == f"{dimmed}\n", (
        "a stopped answer leaves the terminal as it was"
    )
    assert seen(io.StringIO(), THINKING, monkeypatch) == "Oslo.\n"
    monkeypatch.setenv("TERM", "dumb")
    assert seen(Terminal(), THINKING, monkeypatch) == "<think>\nHm,\u241b[2J yes.\n</think>\n\nOslo.\n"
