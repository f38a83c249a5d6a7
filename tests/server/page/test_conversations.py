"""Conversations: stored in the browser, renamed, deleted, restored, exported; and browsers without storage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask
from tests.server.page.stub_server import Answer

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer

LIST = ".conversations .open"
QUOTA = """
    const setItem = Storage.prototype.setItem;
    Storage.prototype.setItem = function (name, value) {
        if (name.startsWith("qwartet.conversation.") && window.isFull) throw new DOMException("", "QuotaExceededError");
        return setItem.call(this, name, value);
    };
"""
WITHOUT_STORAGE = """
    for (const name of ["localStorage", "sessionStorage"]) {
        Object.defineProperty(window, name, { get() { %s } });
    }
"""
REFUSED = 'throw new DOMException("", "SecurityError")'


def choose(page: Page, words: str) -> None:
    """Picks an entry of the open conversation's menu."""
    page.click("#options")
    page.click(f"#menu >> text={words}")


def test_conversations_survive_a_reload(page: Page) -> None:
    ask(page, "The first one")
    page.click(".new")
    ask(page, "The second one")
    page.reload()
    expect(page.locator(LIST)).to_have_text(["The second one", "The first one"])
    expect(page.locator(".said")).to_have_text("The second one")
    page.click(f"{LIST} >> text=The first one")
    expect(page.locator(".said")).to_have_text("The first one")
    expect(answer(page)).to_have_text("Hello there.")


def test_a_conversation_in_which_nothing_was_said_is_not_listed(page: Page) -> None:
    page.click(".new")
    expect(page.locator(LIST)).to_have_count(0)
    expect(page.locator("#no-conversations")).to_be_visible()


def test_a_conversation_can_be_renamed(page: Page) -> None:
    ask(page, "Hello")
    choose(page, "Rename")
    page.fill("#rename-field", "About <b>violins</b>")
    page.press("#rename-field", "Enter")
    expect(page.locator("#title")).to_have_text("About <b>violins</b>")
    page.reload()
    expect(page.locator(LIST)).to_have_text("About <b>violins</b>")


def test_a_deleted_conversation_can_be_brought_back(page: Page) -> None:
    ask(page, "Keep me")
    choose(page, "Delete")
    expect(page.locator(LIST)).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(0)
    page.click(".toast >> text=Undo")
    expect(page.locator(LIST)).to_have_text("Keep me")
    expect(page.locator(".said")).to_have_text("Keep me")


def test_a_deleted_conversation_stays_deleted(page: Page) -> None:
    ask(page, "Delete me")
    choose(page, "Delete")
    page.reload()
    expect(page.locator(LIST)).to_have_count(0)


def test_an_answer_in_the_making_does_not_bring_its_conversation_back(page: Page, server: StubServer) -> None:
    scripted = Answer(["Half"], gate_after=1)
    server.answers = [scripted]
    page.fill("#message", "Delete me")
    page.press("#message", "Enter")
    expect(answer(page)).to_have_text("Half")
    choose(page, "Delete")
    assert scripted.was_left.wait(10)
    page.reload()
    expect(page.locator(LIST)).to_have_count(0)


def exported(page: Page, words: str, folder: Path) -> tuple[str, str]:
    """The name and the text of the file that the browser saves."""
    with page.expect_download() as download:
        choose(page, words)
    path = folder / "download"
    download.value.save_as(path)
    return download.value.suggested_filename, path.read_text(encoding="utf-8")


def test_export_as_markdown(page: Page, server: StubServer, tmp_path: Path) -> None:
    server.answers = [Answer(["It is **four**."])]
    ask(page, "2 + 2 / what?")
    name, text = exported(page, "Export as Markdown", tmp_path)
    assert name == "2-2-what.md"
    assert text == "# 2 + 2 / what?\n\n## You\n\n2 + 2 / what?\n\n## qwen-demo\n\nIt is **four**.\n"


def test_an_answer_bears_the_name_of_the_model_that_gave_it(visit, server: StubServer, tmp_path: Path) -> None:
    server.may_list_models.clear()  # the message is sent before the page knows a model
    page = visit()
    ask(page, "Hello")
    assert "model" not in server.bodies[0]
    server.may_list_models.set()
    expect(page.locator(".answer h2")).to_have_text("Answer · qwen-demo")
    assert "## qwen-demo" in exported(page, "Export as Markdown", tmp_path)[1]


def test_export_as_json(page: Page, server: StubServer, tmp_path: Path) -> None:
    server.answers = [Answer(["Four."], usage=(11, 3))]
    ask(page, "你好")
    name, text = exported(page, "Export as JSON", tmp_path)
    assert name == "你好.json"
    value = json.loads(text)
    assert value["messages"] == [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "Four."}]
    (about,) = value["answers"]
    assert (about["model"], about["finish_reason"], about["totalTokens"]) == ("qwen-demo", "stop", 14)


def test_two_tabs_show_the_same(page: Page, server: StubServer) -> None:
    ask(page, "In the first tab")
    other = page.context.new_page()
    other.goto(server.url)
    expect(other.locator(".said")).to_have_text("In the first tab")
    ask(other, "In the second tab")
    expect(page.locator(".said")).to_have_text(["In the first tab", "In the second tab"])
    other.close()


def test_a_full_storage_is_told_and_nothing_breaks(visit) -> None:
    page = visit(init_script=QUOTA)
    page.evaluate("window.isFull = true")
    assert ask(page, "Hello") == "Hello there."
    expect(page.locator(".notice")).to_contain_text("The browser's storage is full")
    page.evaluate("window.isFull = false")
    assert ask(page, "Again") == "Hello there."
    page.reload()
    expect(page.locator(".said")).to_have_text(["Hello", "Again"])


@pytest.mark.parametrize(
    ("locale", "words"),
    [("en-GB", "This browser does not allow the page to store data"), ("zh-CN", "浏览器不允许页面保存数据")],
)
@pytest.mark.parametrize("get", [REFUSED, "return null", "return undefined"])
def test_a_browser_without_storage_is_told_and_nothing_breaks(visit, get: str, locale: str, words: str) -> None:
    page = visit(init_script=WITHOUT_STORAGE % get, locale=locale)
    expect(page.locator(".notice")).to_have_count(1)
    expect(page.locator(".notice")).to_contain_text(words)
    assert ask(page, "Hello") == "Hello there."
    page.click(".new")
    page.click(f"{LIST} >> text=Hello")
    expect(page.locator(".said")).to_have_text("Hello")
    page.click("#switch-language")
    expect(page.locator(".notice")).not_to_contain_text(words)


def test_broken_entries_are_passed_over(page: Page) -> None:
    ask(page, "Sound")
    for i, entry in enumerate(("", "{", "null", "[]", '{"turns": 3}', '{"title": "x", "system": "", "turns": [null]}')):
        page.evaluate("([i, entry]) => localStorage.setItem(`qwartet.conversation.${i}`, entry)", [i, entry])
    page.evaluate("localStorage.setItem('qwartet.preferences', '{')")
    page.reload()
    expect(page.locator(LIST)).to_have_text("Sound")
