"""Accessibility: keyboard only, screen readers, input methods, phones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask, send
from tests.server.page.screenshots import VIOLIN
from tests.server.page.stub_server import Answer

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer

PHONE = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True}
LONG_WORD = "Donau" * 60
WIDE = f"\n\n# {LONG_WORD}\n\n`{LONG_WORD}` **{LONG_WORD}**\n\n> {LONG_WORD}\n\n- {LONG_WORD}"


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")


def test_a_conversation_by_keyboard_alone(page: Page, server: StubServer) -> None:
    page.reload()
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("First line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    expect(answer(page)).to_have_text("Hello there.")
    assert server.bodies[0]["messages"][0]["content"] == "First line\nsecond line"
    expect(page.locator("#message")).to_be_focused()


def test_escape_stops_an_answer(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["Never"], gate_after=1)]
    send(page, "Go on")
    expect(answer(page)).to_have_text("Never")
    page.keyboard.press("Escape")
    expect(page.locator(".remark")).to_have_text("Stopped")


def test_escape_in_a_dialog_stops_nothing(page: Page, server: StubServer) -> None:
    scripted = Answer(["Never"], gate_after=1)
    server.answers = [scripted]
    send(page, "Go on")
    expect(answer(page)).to_have_text("Never")
    page.click(".sidebar [data-action=settings]")
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    expect(page.locator(".making")).to_have_count(1)
    scripted.gate.set()
    expect(page.locator(".remark")).to_have_count(0)


@pytest.mark.parametrize("sign", [{"isComposing": True}, {"keyCode": 229}], ids=str)
def test_enter_that_confirms_an_input_method_does_not_send(page: Page, server: StubServer, sign: dict) -> None:
    page.fill("#message", "ni hao")
    page.locator("#message").dispatch_event("keydown", {"key": "Enter", "code": "Enter", **sign})
    assert server.bodies == []
    expect(page.locator("#message")).to_have_value("ni hao")
    page.press("#message", "Enter")
    expect(page.locator(".said")).to_have_text("ni hao")


def test_the_first_stop_of_the_keyboard_leads_to_the_message(page: Page) -> None:
    page.click(".brand span")
    page.keyboard.press("Shift+Tab")
    assert focused(page) == "Skip to the message field"
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_be_focused()


def test_every_control_is_reached_by_the_keyboard_and_shows_it(page: Page) -> None:
    ask(page, "Hello")
    page.focus(".skip")
    reached, bare = set(), set()
    for _ in range(25):
        name, outline = page.evaluate(
            """() => {
                const node = document.activeElement;
                const frame = node.id === "message" ? node.parentElement : node;
                const { outlineStyle, borderColor } = getComputedStyle(frame);
                const shown = node.id === "message" ? borderColor !== "rgb(201, 208, 200)" : outlineStyle !== "none";
                return [node === document.body ? null : node.id || node.dataset.action || node.className, shown];
            }"""
        )
        if name is not None:
            reached.add(name)
            bare |= set() if outline else {name}
        page.keyboard.press("Tab")
    wanted = {"skip", "new", "open", "row-options", "settings", "switch-language", "switch-theme", "options"}
    wanted |= {"scroll", "copy", "edit", "regenerate", "message", "send"}
    assert wanted - reached == set()
    assert bare == set()


def test_the_menu_and_dialogs_by_keyboard(page: Page) -> None:
    ask(page, "Hello")
    page.focus("#options")
    page.keyboard.press("Enter")
    assert focused(page) == "Rename"
    page.keyboard.press("Escape")
    expect(page.locator("#menu")).to_be_hidden()
    expect(page.locator("#options")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator("#rename-field")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#rename")).to_be_hidden()


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_every_control_has_a_name(visit, server: StubServer, locale: str) -> None:
    page = visit(locale=locale)
    server.models = [server.model("one"), server.model("two")]
    page.reload()
    server.answers = [Answer([VIOLIN])]
    ask(page, "Hello")
    page.locator(".user").hover()
    controls = "button, input, textarea, select, a[href], progress, dialog, nav, [role]"
    nameless = """controls => [...document.querySelectorAll(controls)]
        .filter((node) => {
            if (node.getAttribute("role") === "status") return false;
            const labels = [...(node.labels ?? [])].map((label) => label.textContent);
            const by = (node.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id));
            const words = [node.getAttribute("aria-label"), ...labels, ...by.map((other) => other?.textContent)];
            if (node.matches("button, a")) words.push(node.textContent);
            return !words.some((word) => word?.trim());
        })
        .map((node) => node.outerHTML.slice(0, 120))"""
    assert page.evaluate(nameless, controls) == []
    lines = [line.strip() for line in page.locator("body").aria_snapshot().splitlines()]
    assert "- main:" in lines
    assert not {"- button", "- button:", "- textbox", "- combobox", "- combobox:", "- link", "- link:"} & set(lines)


def test_the_page_has_landmarks_and_headings(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["# Of the model"])]
    ask(page, "Hello")
    snapshot = page.locator("body").aria_snapshot()
    for line in (
        '- navigation "Conversations"', "- main", '- region "Conversation"', '- heading "Hello" [level=1]',
        '- heading "You" [level=2]', '- heading "Answer · qwen-demo" [level=2]', '- heading "Of the model" [level=3]',
    ):  # fmt: skip
        assert line in snapshot


def test_an_answer_is_announced_once_it_is_complete(page: Page, server: StubServer) -> None:
    scripted = Answer(["One", " two"], gate_after=1)
    server.answers = [scripted]
    send(page, "Count")
    expect(answer(page)).to_have_text("One")
    expect(page.locator("#announcer")).to_have_text("Generating an answer.")
    scripted.gate.set()
    expect(page.locator("#announcer")).to_have_text("Answer complete: One two")
    live = page.locator("[aria-live], [role=status], [role=alert], [role=log]")
    assert page.locator("#turns").evaluate("(turns, live) => turns.closest(live) === null", "[aria-live],[role=log]")
    assert live.count() == 3, "notices, the toast, the announcer"


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_nothing_is_wider_than_a_small_phone(visit, server: StubServer, locale: str) -> None:
    page = visit(**PHONE, locale=locale)
    assert overflow(page) == 0
    server.answers = [Answer([VIOLIN, WIDE])]
    page.fill("#message", LONG_WORD)
    page.click("#send")
    expect(page.locator(".figures")).not_to_be_empty()
    too_wide = """() => [...document.querySelectorAll("#scroll, #main *")].filter((node) => {
        const inside = node.closest("pre, .table, .visually-hidden");
        return (!inside || inside === node) && node.getBoundingClientRect().right > innerWidth + 0.5;
    }).map((node) => node.outerHTML.slice(0, 100))"""
    assert page.evaluate(too_wide) == []
    assert page.locator("#scroll").evaluate("node => node.scrollWidth - node.clientWidth") == 0
    page.click("#open-sidebar")
    page.click(".sidebar [data-action=settings]")
    assert overflow(page) == 0
    assert page.locator(".drawer-body").evaluate("node => node.scrollWidth - node.clientWidth") == 0


def test_fields_are_large_enough_that_a_phone_does_not_zoom(visit) -> None:
    page = visit(**PHONE)
    sizes = page.evaluate(
        "[...document.querySelectorAll('input:not([type=radio], [type=checkbox]), textarea')]"
        ".map((node) => parseFloat(getComputedStyle(node).fontSize))"
    )
    assert sizes
    assert min(sizes) >= 16


def test_on_a_phone_enter_begins_a_line_and_the_list_comes_and_goes(visit, server: StubServer) -> None:
    page = visit(**PHONE)
    page.tap("#message")
    page.keyboard.type("one")
    page.keyboard.press("Enter")
    page.keyboard.type("two")
    page.tap("#send")
    expect(answer(page)).to_have_text("Hello there.")
    assert server.bodies[0]["messages"][0]["content"] == "one\ntwo"
    expect(page.locator("#sidebar")).not_to_be_in_viewport()
    page.tap("#open-sidebar")
    expect(page.locator("#close-sidebar")).to_be_focused()
    assert page.locator("#main").evaluate("node => node.inert")
    page.tap(".conversations .open")
    expect(page.locator("#sidebar")).not_to_be_in_viewport()
    assert not page.locator("#main").evaluate("node => node.inert")
