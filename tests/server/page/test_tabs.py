"""Two tabs on the same conversations: whatever happens in them, and when, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask, messages, send
from tests.server.page.stub_server import Answer

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer

LIST = ".conversations .open"
DEAF = "window.addEventListener('storage', (event) => window.isDeaf && event.stopImmediatePropagation())"
SETTINGS = ".sidebar [data-action=settings]"


@pytest.fixture
def other(page: Page, server: StubServer) -> Iterator[Page]:
    """A second tab, on the conversation in which the first one has said something."""
    ask(page, "First of all")
    tab = page.context.new_page()
    complaints: list[str] = []
    tab.add_init_script(DEAF)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(server.url)
    expect(tab.locator(".said")).to_have_text("First of all")
    yield tab
    tab.close()
    assert complaints == []


def menu(page: Page, words: str) -> None:
    page.click("#options")
    page.click(f"#menu >> text={words}")


def begin(page: Page, server: StubServer, *pieces: str, gate_after: int = 1) -> Answer:
    """Asks, and waits until the answer's beginning is here."""
    scripted = Answer(list(pieces), gate_after=gate_after)
    server.answers = [scripted]
    send(page, "At length")
    expect(answer(page)).to_have_text("".join(pieces[:gate_after]))
    return scripted


def test_an_answer_is_seen_growing_in_the_other_tab_and_is_no_failure(
    page: Page, other: Page, server: StubServer
) -> None:
    scripted = begin(page, server, "Half ", "and half")
    expect(answer(other)).to_have_text("Half")
    expect(other.locator("#stop")).to_be_visible()
    other.wait_for_timeout(2500)  # longer than a tab waits for a sign of life
    expect(other.locator(".failure")).to_have_count(0)
    scripted.gate.set()
    expect(answer(other)).to_have_text("Half and half")
    expect(other.locator("#send")).to_be_visible()


def test_a_tab_that_is_opened_meanwhile_takes_it_for_no_failure(page: Page, other: Page, server: StubServer) -> None:
    scripted = begin(page, server, "Half ", "and half")
    other.reload()
    expect(answer(other)).to_have_text("Half")
    other.wait_for_timeout(2500)
    expect(other.locator(".failure")).to_have_count(0)
    scripted.gate.set()
    expect(answer(other)).to_have_text("Half and half")


def test_what_is_sent_in_the_other_tab_meanwhile_waits_and_the_answer_is_whole(
    page: Page, other: Page, server: StubServer
) -> None:
    scripted = begin(page, server, "Half ", "and half")
    expect(answer(other)).to_have_text("Half")
    send(other, "And you?")
    expect(other.locator("#message")).to_have_value("And you?")
    scripted.gate.set()
    expect(answer(page)).to_have_text("Half and half")
    expect(other.locator("#send")).to_be_visible()
    other.press("#message", "Enter")
    expect(page.locator(".said")).to_have_text(["First of all", "At length", "And you?"])
    page.reload()
    expect(page.locator(".text")).to_have_text(["Hello there.", "Half and half", "Hello there."])


def test_the_other_tab_can_stop_the_answer(page: Page, other: Page, server: StubServer) -> None:
    scripted = begin(page, server, "Never ", "ending")
    expect(other.locator("#stop")).to_be_visible()
    other.click("#stop")
    assert scripted.was_left.wait(10)
    for tab in (page, other):
        expect(tab.locator(".remark")).to_have_text("Stopped")


def test_a_tab_that_is_closed_in_the_middle_leaves_what_had_come(page: Page, other: Page, server: StubServer) -> None:
    begin(other, server, "Half ", "and half")
    other.close()
    expect(page.locator(".failure")).to_contain_text("The connection was lost before the answer was complete.")
    expect(answer(page)).to_have_text("Half")
    page.click(".failure >> text=Continue")
    expect(answer(page)).to_have_text("Half Hello there.")


def test_a_tab_that_died_without_a_word_is_noticed(page: Page, server: StubServer) -> None:
    ask(page, "Hello")
    page.evaluate(
        """() => {
            const name = Object.keys(localStorage).find((one) => localStorage[one].includes("Hello there."));
            const turn = JSON.parse(localStorage[name]);
            localStorage[name] = JSON.stringify({ ...turn, content: "Half", finish: null });
        }"""
    )
    page.reload()
    expect(answer(page)).to_have_text("Half")
    expect(page.locator(".failure")).to_contain_text("The connection was lost before the answer was complete.")


def test_both_send_at_the_same_moment(page: Page, other: Page, server: StubServer) -> None:
    """Neither has heard of the other's message when it sends its own: both are kept, as versions."""
    other.evaluate("window.isDeaf = true")
    scripted = [Answer(["one", " and one"], gate_after=1), Answer(["two", " and two"], gate_after=1)]
    server.answers = list(scripted)
    send(page, "From here")
    expect(answer(page)).to_have_text("one")
    send(other, "From there")
    expect(answer(other)).to_have_text("two")
    for one in scripted:
        one.gate.set()
    expect(answer(page)).to_have_text("one and one")
    expect(answer(other)).to_have_text("two and two")
    expect(page.locator(".said")).to_have_text(["First of all", "From here"])
    for tab in (page, other):
        tab.reload()
        seen = {}
        for direction in ("earlier", "later"):
            arrow = tab.locator(f".user .versions [data-action={direction}]")
            if arrow.is_enabled():
                arrow.click()
            seen[tab.locator(".said").last.inner_text()] = answer(tab).inner_text()
        assert seen == {"From here": "one and one", "From there": "two and two"}


def test_versions_made_in_both_tabs_are_all_kept_and_neither_is_moved(
    page: Page, other: Page, server: StubServer
) -> None:
    server.answers = [Answer(["Second"]), Answer(["Third"])]
    page.click(".answer [data-action=regenerate]")
    expect(answer(page)).to_have_text("Second")
    expect(other.locator(".version-place")).to_contain_text("1 / 2")
    expect(answer(other)).to_have_text("Hello there.")
    other.click(".answer [data-action=regenerate]")
    expect(answer(other)).to_have_text("Third")
    expect(page.locator(".version-place")).to_contain_text("2 / 3")
    expect(answer(page)).to_have_text("Second")
    page.reload()
    expect(page.locator(".version-place")).to_contain_text("/ 3")


def test_an_open_editor_survives_what_the_other_tab_does(page: Page, other: Page, server: StubServer) -> None:
    page.locator(".user").hover()
    page.click(".user [data-action=edit]")
    page.fill(".editor textarea", "First, but better")
    ask(other, "Second")
    other.click(".answer:last-child [data-action=regenerate]")
    expect(page.locator(".version-place")).to_contain_text("1 / 2")
    expect(page.locator(".editor textarea")).to_have_value("First, but better")
    page.click("[data-action=send-edited]")
    expect(page.locator(".said")).to_have_text("First, but better")
    page.reload()
    page.click(".user .versions [data-action=earlier]")
    expect(page.locator(".said")).to_have_text(["First of all", "Second"])


def test_deleted_in_one_tab_while_the_other_answers_in_it(page: Page, other: Page, server: StubServer) -> None:
    scripted = begin(page, server, "Half ", "and half")
    expect(answer(other)).to_have_text("Half")
    menu(other, "Delete")
    assert scripted.was_left.wait(10), "the answer goes on"
    expect(page.locator(LIST)).to_have_count(0)
    assert page.evaluate("Object.keys(localStorage).filter((name) => name.includes('conversation')).length") == 0
    page.click(".notice >> text=Keep it")
    expect(page.locator(".notice")).to_have_count(0)
    expect(other.locator(LIST)).to_have_text("First of all")
    page.reload()
    expect(page.locator(".said")).to_have_text(["First of all", "At length"])
    expect(answer(page)).to_have_text("Half")


def test_deleted_in_one_tab_and_written_to_in_the_other(page: Page, other: Page) -> None:
    menu(other, "Delete")
    expect(page.locator(".notice")).to_contain_text("deleted in another tab")
    ask(page, "But I was here")
    expect(page.locator(".notice")).to_have_count(0)
    expect(other.locator(LIST)).to_have_text("First of all")
    page.reload()
    expect(page.locator(".said")).to_have_text(["First of all", "But I was here"])


def test_deleted_and_brought_back_in_the_other_tab(page: Page, other: Page) -> None:
    menu(other, "Delete")
    expect(page.locator(".notice")).to_contain_text("deleted in another tab")
    other.click(".toast >> text=Undo")
    expect(page.locator(".notice")).to_have_count(0)
    ask(page, "Still here")
    expect(other.locator(".said")).to_have_text(["First of all", "Still here"])


def test_a_storage_that_is_emptied_leaves_what_is_open(page: Page, other: Page) -> None:
    other.evaluate("localStorage.clear()")
    expect(page.locator(".notice")).to_contain_text("deleted in another tab")
    page.click(".notice >> text=Keep it")
    page.reload()
    expect(page.locator(".said")).to_have_text("First of all")


def test_renamed_in_one_and_given_a_system_prompt_in_the_other(page: Page, other: Page, server: StubServer) -> None:
    menu(page, "Rename")
    page.fill("#rename-field", "Named")
    page.press("#rename-field", "Enter")
    other.click(SETTINGS)
    other.fill("#system", "Be brief.")
    other.press("#settings", "Escape")
    for tab in (page, other):
        expect(tab.locator("#title")).to_have_text("Named")
        expect(tab.locator(".system")).to_contain_text("Be brief.")
    page.reload()
    expect(page.locator("#title")).to_have_text("Named")
    ask(page, "Hello")
    assert messages(server.bodies[-1])[0] == ("system", "Be brief.")


def test_settings_of_both_tabs_hold_in_both(page: Page, other: Page, server: StubServer) -> None:
    page.click(SETTINGS)
    page.fill("#sampling-temperature", "0.5")
    other.click(SETTINGS)
    other.fill("#sampling-top_p", "0.9")
    for tab in (page, other):
        expect(tab.locator("#sampling-temperature")).to_have_value("0.5")
        expect(tab.locator("#sampling-top_p")).to_have_value("0.9")
    page.reload()
    ask(page, "Hello")
    assert (server.bodies[-1]["temperature"], server.bodies[-1]["top_p"]) == (0.5, 0.9)


def test_language_and_colours_go_to_both(page: Page, other: Page) -> None:
    page.click("#switch-language")
    page.click("#switch-theme")
    expect(other.locator(".new")).to_have_text("新对话")
    expect(other.locator("html")).to_have_attribute("data-theme", "dark")


def test_each_tab_comes_back_to_its_own_conversation_and_draft(page: Page, other: Page) -> None:
    other.click(".new")
    ask(other, "Elsewhere")
    page.fill("#message", "draft of the first")
    other.fill("#message", "draft of the second")
    page.reload()
    other.reload()
    expect(page.locator(".said")).to_have_text("First of all")
    expect(page.locator("#message")).to_have_value("draft of the first")
    expect(other.locator(".said")).to_have_text("Elsewhere")
    expect(other.locator("#message")).to_have_value("draft of the second")


def test_a_full_storage_in_one_tab_costs_the_other_nothing(page: Page, other: Page) -> None:
    page.evaluate(
        """() => {
            const setItem = Storage.prototype.setItem;
            Storage.prototype.setItem = function (name, value) {
                if (window.isFull && name.startsWith("qwartet.")) throw new DOMException("", "QuotaExceededError");
                return setItem.call(this, name, value);
            };
            window.isFull = true;
        }"""
    )
    ask(page, "Not kept yet")
    expect(page.locator(".notice")).to_contain_text("storage is full")
    ask(other, "Kept")
    page.evaluate("window.isFull = false")
    page.click(".answer:last-child [data-action=regenerate]")
    expect(page.locator(".notice")).to_have_count(0)
    stored = other.evaluate("Object.values(localStorage).join()")
    assert "Not kept yet" in stored
    assert "Kept" in stored
