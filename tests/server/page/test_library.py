"""All conversations together: searched, grouped by date, exported, imported, deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask, messages
from tests.server.page.stub_server import Answer

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer

LIST = ".conversations .open"
SETTINGS = ".sidebar [data-action=settings]"
GROUPS = """now => {
    const at = (days, hour = 12) => {
        const date = new Date(now);
        date.setDate(date.getDate() - days);
        return date.setHours(hour, 0, 0, 0);
    };
    const times = { early: at(0, 0), late: at(1, 23), week: at(7), month: at(30), spring: at(100), old: at(500) };
    for (const [title, updated] of Object.entries(times)) {
        const turns = [{ role: "user", content: title }];
        localStorage.setItem(`qwartet.conversation.${title}`, JSON.stringify({ title, system: "", updated, turns }));
    }
}"""


def store(page: Page, conversations: dict[str, list[str]]) -> None:
    """Conversations by their titles, with what is said in them."""
    for number, (title, texts) in enumerate(conversations.items()):
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        entry = {"title": title, "system": "", "created": 1, "updated": 1000 - number, "turns": turns}
        page.evaluate("([name, entry]) => localStorage.setItem(name, JSON.stringify(entry))", [_name(number), entry])
    page.reload()


def _name(number: int) -> str:
    return f"qwartet.conversation.c{number}"


def exported(page: Page, tmp_path: Path) -> Any:
    page.click(SETTINGS)
    with page.expect_download() as download:
        page.click("#export-all")
    page.press("#settings", "Escape")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path


def bring_in(page: Page, *files: Any) -> None:
    page.click(SETTINGS)
    page.set_input_files("#import-files", list(files))
    expect(page.locator(".toast span").first).to_contain_text("Imported")
    page.press("#settings", "Escape")


def file_of(value: Any, name: str = "talk.json") -> dict[str, Any]:
    text = value if isinstance(value, str) else json.dumps(value)
    return {"name": name, "mimeType": "application/json", "buffer": text.encode()}


def test_the_list_is_grouped_by_date(visit) -> None:
    page = visit(locale="en-GB")  # a clock is its context's
    page.clock.set_fixed_time("2026-11-20T12:00:00")
    page.evaluate(GROUPS, page.evaluate("Date.now()"))
    page.reload()
    expect(page.locator(".conversations h2")).to_have_text(
        ["Today", "Yesterday", "Last 7 days", "Last 30 days", "August", "2025"]
    )
    expect(page.locator(LIST)).to_have_text(["early", "late", "week", "month", "spring", "old"])
    page.click("#switch-language")
    expect(page.locator(".conversations h2").first).to_have_text("今天")


def test_the_search_finds_titles_and_all_versions_of_all_turns(page: Page, server: StubServer) -> None:
    store(page, {"Violins": ["Why?", "Overtones."], "弦乐": ["小提琴为什么响？", "泛音。"]})
    server.answers = [Answer(["First version"]), Answer(["Second version"])]
    ask(page, "Something")
    page.click(".answer [data-action=regenerate]")
    expect(answer(page)).to_have_text("Second version")
    for words, titles in {
        "violin": ["Violins"], "OVERTONES why": ["Violins"], "小提琴": ["弦乐"], "first version": ["Something"],
    }.items():  # fmt: skip
        page.fill("#search", words)
        expect(page.locator(LIST)).to_have_text(titles)
        expect(page.locator("#announcer")).to_have_text("1 found")
    page.fill("#search", "nowhere (.*")
    expect(page.locator("#no-conversations")).to_have_text("No matching conversations.")
    page.press("#search", "Escape")
    expect(page.locator(LIST)).to_have_count(3)


def test_all_are_exported_and_imported_with_their_versions(page: Page, server: StubServer, tmp_path: Path) -> None:
    server.answers = [Answer(["One"]), Answer(["Two"])]
    ask(page, "Twice")
    page.click(".answer [data-action=regenerate]")
    expect(answer(page)).to_have_text("Two")
    page.click(".versions [data-action=earlier]")
    page.click(".new")
    ask(page, "Once")
    page.evaluate("localStorage.setItem('qwartet.conversation.bad', '{')")
    page.reload()
    path = exported(page, tmp_path)
    assert json.loads(path.read_text())["aside"] == {"qwartet.conversation.bad": "{"}
    page.evaluate("localStorage.clear(); sessionStorage.clear(); sessionStorage.setItem('is-clean', 'yes')")
    page.reload()
    expect(page.locator(LIST)).to_have_count(0)
    bring_in(page, path)
    expect(page.locator(LIST)).to_have_text(["Once", "Twice"])
    page.reload()
    page.click(f"{LIST} >> text=Twice")
    expect(answer(page)).to_have_text("One")
    expect(page.locator(".version-place")).to_contain_text("1 / 2")
    bring_in(page, path)  # again: nothing is doubled
    expect(page.locator(LIST)).to_have_count(2)
    expect(page.locator(".version-place")).to_contain_text("1 / 2")


OPENAI = [
    {"role": "system", "content": "Brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
]
FORMS = {
    "messages": OPENAI,
    "an object with messages": {"messages": OPENAI},
    "a request": {"model": "m", "messages": OPENAI, "temperature": 0},
    "what qwartet chat saves": {
        "format": "qwartet conversation", "version": 1, "system": "Brief.", "sampling": {},
        "turns": [{"user": "Hi", "assistant": "Yes?"}],
    },
    "several": [{"messages": OPENAI}],
    "a byte order mark": "\ufeff" + json.dumps(OPENAI),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_of_a_conversation_are_imported(page: Page, server: StubServer, name: str) -> None:
    bring_in(page, file_of(FORMS[name]))
    page.click(f"{LIST} >> text=Hi")
    ask(page, "And?")
    wanted = [("system", "Brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "And?")]
    assert messages(server.bodies[-1]) == wanted


@pytest.mark.parametrize("value", ["", "{", "null", "3", [], {}, [None], {"messages": "x"}, {"turns": [3]}], ids=str)
def test_a_file_of_something_else_is_told_and_changes_nothing(page: Page, value: Any) -> None:
    ask(page, "Mine")
    bring_in(page, file_of(value))
    words = "Imported conversations: 0." + ("" if value == [] else " Unreadable entries: 1.")
    expect(page.locator(".toast span").first).to_have_text(words)
    expect(page.locator(LIST)).to_have_text("Mine")


def test_another_conversation_with_the_same_id_takes_nothing_away(page: Page, tmp_path: Path) -> None:
    ask(page, "Mine")
    value = json.loads(exported(page, tmp_path).read_text())
    for turn in value["conversations"][0]["turns"]:
        turn["content"] = "theirs"
    bring_in(page, file_of(value))
    expect(page.locator(LIST)).to_have_count(2)
    expect(page.locator(".said")).to_have_text("Mine")


def test_all_are_deleted_after_a_question(page: Page) -> None:
    store(page, {"One": ["a"], "Two": ["b"]})
    page.evaluate("localStorage.setItem('qwartet.conversation.bad', '{')")
    page.reload()
    page.click(SETTINGS)
    page.click("#remove-all")
    expect(page.locator("#remove-all-question")).to_contain_text("2 conversations")
    page.click("#confirm-remove-all [data-close]")
    expect(page.locator(LIST)).to_have_count(2)
    page.click(SETTINGS)
    page.click("#remove-all")
    page.click("#confirm-remove-all [type=submit]")
    expect(page.locator(LIST)).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(0)
    assert page.evaluate("Object.keys(localStorage).filter((name) => name.includes('conversation'))") == []
    page.reload()
    expect(page.locator(".notice")).to_have_count(0)
