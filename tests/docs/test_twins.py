"""Documents in two languages say the same: the same structure, code, figures and links."""

from __future__ import annotations

import re
import unicodedata

import pytest

from tests.documents import (
    blocks,
    broken_links,
    check_command,
    code_spans,
    commands,
    headings,
    links,
    prose,
    text_of,
    unknown_commands,
    without_comments,
)

TWINS = ("docs/convert.md", "docs/faq.md", "docs/finetune.md", "docs/tokenization.md")
DOCUMENTS = (*TWINS, *(name.replace(".md", ".zh.md") for name in TWINS))
COLUMNS = 120


def twin(name: str) -> str:
    return name.replace(".md", ".zh.md")


def numbers(text: str) -> list[str]:
    return re.findall(r"(?<!\w)\d+(?:[.,]\d+)*", re.sub(r"\]\([^)]*\)", "]", text), re.ASCII)


def rows(name: str) -> list[list[str]]:
    """The numbers of each row of the tables."""
    return [numbers(row) for row in re.findall(r"^\|.*\|$", prose(name), re.MULTILINE)]


@pytest.mark.parametrize("name", TWINS)
def test_both_languages_have_the_same_headings_code_and_figures(name: str) -> None:
    assert [level for level, _ in headings(name)] == [level for level, _ in headings(twin(name))]
    assert blocks(name, "python") == blocks(twin(name), "python") != []
    assert list(map(without_comments, blocks(name, "sh"))) == list(map(without_comments, blocks(twin(name), "sh")))
    assert rows(name) == rows(twin(name)) != []
    assert set(numbers(prose(name))) == set(numbers(prose(twin(name))))
    assert set(code_spans(name)) == set(code_spans(twin(name)))


@pytest.mark.parametrize("name", TWINS)
def test_both_languages_link_to_the_same_documents_and_to_each_other(name: str) -> None:
    def targets(document: str) -> list[str]:
        own = [re.sub(r"#.*", "", link).replace(".zh.md", ".md") for link in links(document)]
        return [link for link in own if link]

    assert targets(name) == targets(twin(name))
    assert twin(name).removeprefix("docs/") in links(name) and name.removeprefix("docs/") in links(twin(name))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(name: str) -> None:
    assert links(name) and broken_links(name) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_document_is_in_the_sites_navigation(name: str) -> None:
    assert re.search(rf": {re.escape(name.removeprefix('docs/'))}$", text_of("mkdocs.yml"), re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_command_line_takes_every_command(name: str) -> None:
    for arguments in commands(name):
        check_command(arguments)
    assert unknown_commands(name) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lines_are_at_most_120_columns_wide_and_commands_can_be_pasted(name: str) -> None:
    def width(line: str) -> int:
        return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in line)

    lines = text_of(name).splitlines()
    assert [line for line in lines if width(line) > COLUMNS and not line.startswith("|")] == []
    assert [line for line in lines if re.match(r"\$ ", line) or line != line.rstrip()] == []


@pytest.mark.parametrize(
    ("code", "is_known"),
    [
        ("qwartet dance", False),
        ("qwartet plan NAME --concurrency 8", True),
        ("plan --gpus many", False),
        ("plan --gpus 2", True),
        ("--no-such-option", False),
        ("--kv-cache-dtype int8", True),
        ("--dtype fp8", False),
        ("--api-key-file FILE", True),
        ("QWARTET_LANG", True),
        ("QWARTET_LANGUAGE", False),
        ("pip install", True),
    ],
)
def test_code_in_the_prose_is_checked(code: str, is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.documents.text_of", lambda name: f"Use `{code}`.\n")
    assert unknown_commands("any") == ([] if is_known else [code])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "--no-such-option"], "no-such-option"),
        (["plan", "7b", "--context", "much"], "much"),
        (["quantize", "A", "B"], "calibration"),
        (["dance"], "dance"),
    ],
)
def test_a_command_that_does_not_exist_would_be_found(arguments: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_command(arguments)
