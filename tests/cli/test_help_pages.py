"""Help in Chinese keeps within the width of the terminal, its columns in line."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.cli.language.columns import padded, width_of, wrapped
from qwartet.cli.main import command_tree
from qwartet.cli.settings.configuration import verbs
from tests.cli.command_line import CommandLine

TEXT = st.text(st.sampled_from("中文量化模型，。；：（）“” ab-c_1"), max_size=200)


def columns_of(line: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in line)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("path", [(), *verbs(command_tree())], ids=" ".join)
def test_no_line_is_wider_than_the_terminal_and_the_meanings_stand_in_a_column(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    page = qwartet("--lang", "zh", *path, "--help")
    assert page.code == 0 and page.out.startswith("用法：qwartet")
    lines = page.out.splitlines()
    assert max(map(columns_of, lines)) <= min(columns, 80)
    for table in re.findall(r"(?<=：\n)(?:  .*\n)+", page.out + "\n"):
        starts = {columns_of(match[0]) for match in re.finditer(r"^  \S.*?\S  +(?=\S)|^ {5,}(?=\S)", table, re.M)}
        assert len(starts) <= 1, table


def test_both_languages_list_the_same_options(qwartet: CommandLine) -> None:
    for path in [(), *verbs(command_tree())]:
        english, chinese = (qwartet("--lang", language, *path, "--help").out for language in ("en", "zh"))
        options = re.findall(r"^  (-.*?)(?:  |$)", english, re.M)
        assert options == re.findall(r"^  (-.*?)(?:  |$)", chinese, re.M) != []


@given(TEXT, st.integers(10, 60))
def test_lines_are_broken_where_chinese_allows_it(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)
    for line in lines:
        assert line == line.rstrip()
        assert width_of(line) <= width


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 10, [""]),
        ("一二三四五六", 10, ["一二三四五", "六"]),
        ("一二三四五，六", 10, ["一二三四", "五，六"]),
        ("一二三四（五）", 10, ["一二三四", "（五）"]),
        ("KV 缓存的大小", 8, ["KV 缓存", "的大小"]),
        ("用 --top-k 选项", 10, ["用 --top-k", "选项"]),
        ("回答  [默认：600.0]", 15, ["回答", "[默认：600.0]"]),
        ("/a/very/long/path", 10, ["/a/very/lo", "ng/path"]),
    ],
)
def test_a_line_ends_at_a_space_or_between_characters(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width) == lines


def test_a_text_is_padded_by_what_it_takes() -> None:
    assert (padded("模型", 6), padded("ab", 6), padded("内置模型", 6)) == ("模型  ", "ab    ", "内置模型")
