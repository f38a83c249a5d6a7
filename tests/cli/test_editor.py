"""The line editor, with keys from a pipe: blocks, pastes, completion, history, Ctrl-C and Ctrl-D."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from qwartet.cli.chat.editor import Editor

ENTER, ALT_ENTER, CTRL_C, CTRL_D, CTRL_UNDERSCORE = "\r", "\x1b\r", "\x03", "\x04", "\x1f"
CTRL_G, CTRL_R, CTRL_S = "\x07", "\x12", "\x13"
UP, DOWN, LEFT, HOME, END, BACKSPACE = "\x1b[A", "\x1b[B", "\x1b[D", "\x1b[H", "\x1b[F", "\x7f"
WORDS = ["/save ", "/set ", "/stats"]


def complete(text: str) -> list[str]:
    return [word for word in WORDS if word.startswith(text)]


Type = Callable[..., str]


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Type]:
    """What is entered by keys; all of one test share a history."""

    def read(*keys: str, draft: str = "", history: Path | None = tmp_path / "history") -> str:
        with create_pipe_input() as pipe:
            pipe.send_text("".join(keys))
            return Editor(complete, history, input=pipe, output=DummyOutput()).read(draft)

    yield read


def pasted(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


def test_enter_ends_a_message(typed: Type) -> None:
    assert typed("hello", ENTER) == "hello"


def test_a_newline_character_is_enter_too(typed: Type) -> None:
    assert typed("hello\n") == "hello"


def test_enter_within_a_block_begins_a_line(typed: Type) -> None:
    assert typed('"""', ENTER, "one", ENTER, 'two"""', ENTER) == '"""\none\ntwo"""'


def test_alt_enter_begins_a_line_anywhere(typed: Type) -> None:
    assert typed("one", ALT_ENTER, "two", ENTER) == "one\ntwo"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_paste_of_many_lines_is_one_message(typed: Type, end: str) -> None:
    assert typed(pasted(f"one{end}  two{end}{end}three"), "!", ENTER) == "one\n  two\n\nthree!"


def test_characters_of_double_width_are_edited_one_by_one(typed: Type) -> None:
    assert typed("你好世界", LEFT, BACKSPACE, "新", HOME, "「", ENTER) == "「你好新界"


def test_a_draft_can_be_changed(typed: Type) -> None:
    assert typed(BACKSPACE, "e", ENTER, draft="ona") == "one"


def test_lines_of_earlier_runs_come_back(typed: Type) -> None:
    typed("one", ENTER)
    typed("two", ALT_ENTER, "lines", ENTER)
    assert typed(UP, UP, UP, ENTER) == "one"
    assert typed("not kept", ENTER, history=None) == "not kept"
    assert typed(UP, UP, ENTER) == "two\nlines"


@pytest.mark.parametrize("key", [CTRL_R, CTRL_S])
def test_a_search_takes_the_line_found_into_the_message(typed: Type, key: str) -> None:
    typed("the first", ENTER)
    typed("the second", ENTER)
    assert typed(UP, UP, UP, key, "fir", ENTER, END, "!", ENTER) == "the first!"


@pytest.mark.parametrize("leave", [CTRL_C, CTRL_G])
def test_a_search_that_is_left_changes_nothing(typed: Type, leave: str) -> None:
    typed("the first", ENTER)
    assert typed("a draft", CTRL_R, "fir", leave, "!", ENTER) == "a draft!"


def test_a_search_that_finds_nothing_changes_nothing(typed: Type) -> None:
    typed("the first", ENTER)
    assert typed("a draft", CTRL_R, "nowhere", ENTER, "!", ENTER) == "a draft!"


def test_ctrl_c_clears_the_line_and_ctrl_underscore_brings_it_back(typed: Type) -> None:
    assert typed("one", CTRL_C, "two", ENTER) == "two"
    assert typed("one", CTRL_C, CTRL_UNDERSCORE, ENTER) == "one"


def test_ctrl_c_on_an_empty_line_interrupts(typed: Type) -> None:
    with pytest.raises(KeyboardInterrupt):
        typed(CTRL_C)


def test_ctrl_d_on_an_empty_line_is_the_end(typed: Type) -> None:
    with pytest.raises(EOFError):
        typed(CTRL_D)


@pytest.mark.parametrize(
    ("keys", "message"), [("/sa\t", "/save "), ("/s\tt\t", "/st"), ("/sta\t", "/stats"), ("hello\t", "hello")]
)
def test_tab_completes_commands(typed: Type, keys: str, message: str) -> None:
    assert typed(keys, ENTER).startswith(message)


def test_tab_completes_files(typed: Type, tmp_path: Path) -> None:
    (tmp_path / "conversation.json").touch()
    assert typed(f"/load {tmp_path}/conv\t", ENTER) == f"/load {tmp_path}/conversation.json"
