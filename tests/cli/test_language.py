"""Which language the command line speaks, and what stays the same in both."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path

import pytest

from qwartet.cli.language.catalogue import chinese
from qwartet.cli.language.choice import chosen_language, take_language
from tests.cli.command_line import CommandLine, Terminal
from tests.golden_data import REPOSITORY


def has_chinese(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "POSIX"}, "en"),
        ({"LANG": "en_GB.UTF-8"}, "en"),
        ({"LANG": "zha_CN.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "zh"}, "zh"),
        ({"LANG": "zh_CN.GB18030@pinyin"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": ""}, "zh"),
        ({"LANG": "C", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "C", "LC_MESSAGES": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LANG": "C", "LC_CTYPE": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "QWARTET_LANG": "en"}, "en"),
        ({"LANG": "C", "LC_ALL": "C", "QWARTET_LANG": "zh"}, "zh"),
        ({"QWARTET_LANG": ""}, "en"),
    ],
)
def test_the_language_is_that_of_the_variable_else_of_the_locale_as_posix_has_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], language: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert chosen_language(None) == language
    assert (chosen_language("zh"), chosen_language("en")) == ("zh", "en")


@pytest.mark.parametrize(
    ("encoding", "language"), [("utf-8", "zh"), ("gbk", "zh"), ("ascii", "en"), ("latin-1", "en"), ("none", "en")]
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_cannot_encode_chinese_gets_english(
    monkeypatch: pytest.MonkeyPatch, name: str, encoding: str, language: str
) -> None:
    class Stream(io.StringIO):
        @property
        def encoding(self) -> str:  # type: ignore[override]
            return encoding

    monkeypatch.setattr(f"sys.{name}", Stream())
    assert chosen_language("zh") == language


@pytest.mark.parametrize(
    ("arguments", "given", "others"),
    [
        ([], None, []),
        (["--lang", "zh", "chat"], "zh", ["chat"]),
        (["chat", "--lang=en", "x"], "en", ["chat", "x"]),
        (["--lang", "zh", "chat", "--lang", "en"], "en", ["chat"]),
        (["chat", "--lang"], "", ["chat"]),
        (["chat", "--", "--lang", "zh"], None, ["chat", "--", "--lang", "zh"]),
        (["chat", "--language", "zh"], None, ["chat", "--language", "zh"]),
    ],
)
def test_the_option_stands_before_or_after_the_verb(arguments: list[str], given: str | None, others: list[str]) -> None:
    assert take_language(arguments) == (given, others)


@pytest.mark.parametrize("arguments", [["--lang", "fr", "cache"], ["cache", "--lang=fr"]])
def test_another_language_is_refused_in_one_line(qwartet: CommandLine, arguments: list[str]) -> None:
    qwartet(*arguments).assert_one_line_error("--lang is 'fr'; it must be zh or en")


def test_another_language_in_the_environment_is_refused_by_its_name(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWARTET_LANG", "de")
    qwartet("cache").assert_one_line_error("QWARTET_LANG is 'de'; it must be zh or en")
    assert qwartet("cache", "--lang", "en").code == 0


def test_a_terminal_in_china_shows_help_in_chinese_within_its_width() -> None:
    with Terminal("--help", LANG="zh_CN.UTF-8", COLUMNS="80") as terminal:
        shown = terminal.rest()
    assert "用法：qwartet" in shown and "\r\n命令：\r\n" in shown
    wide = [sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in line) for line in shown.splitlines()]
    assert max(wide) <= 80


def test_errors_are_one_line_of_chinese_with_the_same_exit_code(qwartet: CommandLine) -> None:
    english, outcome = qwartet("chat", "--temprature", "1"), qwartet("--lang", "zh", "chat", "--temprature", "1")
    assert (outcome.code, outcome.out) == (english.code, english.out) == (2, "")
    assert outcome.err == "错误：没有 --temprature 这个选项；是否想输入 --temperature？\n"


def test_one_command_line_s_language_is_not_the_next_one_s(qwartet: CommandLine) -> None:
    english = qwartet("--help")
    assert has_chinese(qwartet("--help", "--lang", "zh").out)
    assert has_chinese(qwartet("--lang", "zh", "caht").err)
    assert qwartet("--help") == english and not has_chinese(english.out)


@pytest.mark.parametrize("arguments", [["cache"], ["list"], ["doctor"], ["config", "chat"]])
def test_json_is_the_same_in_both_languages(qwartet: CommandLine, arguments: list[str]) -> None:
    english, outcome = qwartet(*arguments, "--json"), qwartet(*arguments, "--json", "--lang", "zh")
    assert outcome.code == english.code
    assert json.loads(outcome.out).keys() == json.loads(english.out).keys() and not has_chinese(outcome.out)


def test_what_a_model_says_is_not_translated(qwartet: CommandLine, chat_model: Path) -> None:
    arguments = ["chat", chat_model, "-p", "hello", "--greedy", "--max-tokens", "8", "-q"]
    assert qwartet("--lang", "zh", *arguments).out == qwartet(*arguments).out != ""


def test_english_reads_no_catalogue(qwartet: CommandLine) -> None:
    chinese.cache_clear()
    assert qwartet("--help").code == 0
    assert chinese.cache_info().currsize == 0


def test_the_catalogue_is_part_of_the_package() -> None:
    files = {path.name for path in (REPOSITORY / "qwartet" / "cli" / "language" / "zh").iterdir()}
    assert {"help.json", "labels.json", "errors.json"} <= files
