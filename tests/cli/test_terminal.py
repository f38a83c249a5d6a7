"""No text that is printed can steer a terminal."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.cli.terminal import error_line, inert, json_line, one_line, printable
from qwartet.inert_text import MAX_ERROR_CHARS, MAX_LINE_CHARS

# C0, DEL, C1, separators of lines and paragraphs, overrides and isolates of the writing direction
CONTROLS = [
    chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
]
TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(CONTROLS)))


def controls_in(text: str) -> set[str]:
    return {character for character in text if unicodedata.category(character) == "Cc" or character in CONTROLS}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x1b]52;c;cm0gLXJm\x07", "␛]52;c;cm0gLXJm␇"),
        ("\x1b]0;title\x1b\\", "␛]0;title␛\\"),
        ("\x9b31m", "\ufffd31m"),
        ("safe\rEVIL", "safe␍EVIL"),
        ("ab\b\x7f\0", "ab␈␡␀"),
        ("admin\u202e\u2066gpj.exe\u2069", "admin\ufffd\ufffdgpj.exe\ufffd"),
        ("a\u2028b\u2029c\x85d", "a\ufffdb\ufffdc\ufffdd"),
        ("\u0645\u200f\u200e \u05d0\u200d", "\u0645\u200f\u200e \u05d0\u200d"),
        ("a\tb\nc 你好 👋🏽 é", "a\tb\nc 你好 👋🏽 é"),
    ],
)
def test_control_characters_become_signs(text: str, shown: str) -> None:
    assert inert(text) == shown


@given(TEXT)
def test_nothing_but_newline_and_tab_is_left(text: str) -> None:
    assert controls_in(inert(text)) <= {"\n", "\t"}
    assert not controls_in(one_line(text))


@given(TEXT)
def test_other_characters_stay_as_they_are(text: str) -> None:
    assert [a for a, b in zip(text, inert(text), strict=True) if a != b and a not in CONTROLS] == []


@given(st.lists(TEXT))
def test_pieces_give_the_same_as_the_whole(pieces: list[str]) -> None:
    assert "".join(map(inert, pieces)) == inert("".join(pieces))


@given(TEXT)
def test_json_keeps_the_text_and_has_no_control_characters(text: str) -> None:
    line = json_line({"text": text})
    assert json.loads(line) == {"text": text}
    assert not controls_in(line)


def test_json_shows_chinese_as_it_is() -> None:
    assert json_line("你好") == '"你好"'


def test_a_file_gets_the_text_unchanged_and_a_terminal_does_not() -> None:
    class TerminalStream(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert printable("\x1b[31m", io.StringIO()) == "\x1b[31m"
    assert printable("\x1b[31m", TerminalStream()) == "␛[31m"


@given(st.text(), st.integers(1, 10**6))
def test_a_line_has_a_length_and_keeps_its_end(text: str, count: int) -> None:
    assert len(error_line(text * count)) <= MAX_ERROR_CHARS + 100
    line = one_line("\x1b" * count + "; what to do")
    assert len(line) <= MAX_LINE_CHARS + 100 and line.endswith("; what to do") and not controls_in(line)
