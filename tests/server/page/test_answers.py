"""Answers: streamed, stopped, regenerated, edited, and measured."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask, messages, send
from tests.server.page.stub_server import Answer

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer


def test_text_is_shown_while_the_answer_is_still_made(page: Page, server: StubServer) -> None:
    scripted = Answer(["Once", " upon", " a time"], gate_after=2)
    server.answers = [scripted]
    send(page, "A story")
    expect(answer(page)).to_have_text("Once upon")
    scripted.gate.set()
    expect(answer(page)).to_have_text("Once upon a time")


def test_a_request_holds_the_conversation_and_nothing_that_was_not_asked_for(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["Good", " day."])]
    ask(page, "Hello")
    ask(page, "And now?")
    assert server.bodies[1] == {
        "model": "qwen-demo",
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Good day."},
            {"role": "user", "content": "And now?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_the_stop_button_ends_the_answer_and_the_request(page: Page, server: StubServer) -> None:
    scripted = Answer(["Never", " ending"], gate_after=1)
    server.answers = [scripted]
    send(page, "Go on")
    expect(answer(page)).to_have_text("Never")
    page.click("#stop")
    expect(page.locator(".remark")).to_have_text("Stopped")
    assert scripted.was_left.wait(10), "the server was not told"
    expect(page.locator("#send")).to_be_visible()
    expect(answer(page)).to_have_text("Never")


def test_an_answer_made_again_takes_the_place_of_the_old_one(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["First"]), Answer(["Second"])]
    ask(page, "Hello")
    page.click(".answer [data-action=regenerate]")
    expect(answer(page)).to_have_text("Second")
    expect(page.locator(".answer")).to_have_count(1)
    assert messages(server.bodies[1]) == [("user", "Hello")]


def test_earlier_versions_of_an_answer_are_kept_and_can_be_gone_on_from(page: Page, server: StubServer) -> None:
    server.answers = [Answer([text]) for text in ("First", "Second", "Third")]
    ask(page, "Hello")
    for _ in range(2):
        page.click(".answer [data-action=regenerate]")
        expect(page.locator(".making")).to_have_count(0)
    expect(page.locator(".version-place")).to_contain_text("3 / 3")
    expect(page.locator(".versions [data-action=later]")).to_be_disabled()
    page.click(".versions [data-action=earlier]")
    expect(page.locator(".versions [data-action=earlier]")).to_be_focused()
    page.keyboard.press("Enter")
    expect(answer(page)).to_have_text("First")
    expect(page.locator(".versions [data-action=later]")).to_be_focused()
    ask(page, "And now?")
    assert messages(server.bodies[-1]) == [("user", "Hello"), ("assistant", "First"), ("user", "And now?")]
    page.locator(".answer").first.hover()
    page.locator(".versions [data-action=later]").first.click()
    expect(page.locator(".said")).to_have_text(["Hello"])
    expect(answer(page)).to_have_text("Second")
    page.reload()
    expect(answer(page)).to_have_text("Second")
    page.click(".versions [data-action=earlier]")
    expect(page.locator(".said")).to_have_text(["Hello", "And now?"])


def test_versions_stay_in_their_order_where_the_clock_is_set_back(visit, server: StubServer) -> None:
    page = visit(locale="en-GB")  # a clock is its context's
    server.answers = [Answer([text]) for text in ("First", "Second")]
    ask(page, "Hello")
    page.clock.set_fixed_time("2001-01-01")
    page.click(".answer [data-action=regenerate]")
    expect(answer(page)).to_have_text("Second")
    expect(page.locator(".version-place")).to_contain_text("2 / 2")
    page.reload()
    expect(page.locator(".version-place")).to_contain_text("2 / 2")


def test_an_answer_that_came_to_nothing_is_no_version(page: Page, server: StubServer) -> None:
    server.answers = [Answer(status=500, error={"message": ""}), Answer(["Good"])]
    ask(page, "Hello")
    page.click("[data-action=retry]")
    expect(answer(page)).to_have_text("Good")
    expect(page.locator(".versions:visible")).to_have_count(0)


def test_an_answer_that_was_stopped_or_cut_goes_on(page: Page, server: StubServer) -> None:
    pieces = (["One, ", "two, "], ["three, "], ["four."])
    server.answers = [Answer(pieces[0], gate_after=1), Answer(pieces[1], finish="length"), Answer(pieces[2])]
    send(page, "Count")
    expect(answer(page)).to_have_text("One,")
    page.click("#stop")
    page.click("[data-action=continue]")
    expect(page.locator(".remark")).to_contain_text("max_tokens")
    page.click("[data-action=continue]")
    expect(answer(page)).to_have_text("One, three, four.")
    expect(page.locator(".remark")).to_have_count(0)
    begun = [("user", "Count"), ("assistant", "One, three, ")]
    assert messages(server.bodies[2]) == begun
    assert (server.bodies[2]["continue_final_message"], server.bodies[2]["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in server.bodies[0]
    page.reload()
    expect(answer(page)).to_have_text("One, three, four.")


def test_a_message_without_an_answer_can_be_answered(page: Page, server: StubServer) -> None:
    ask(page, "Hello")
    page.evaluate(
        """() => {
            for (const name of Object.keys(localStorage)) {
                if (localStorage[name].includes("Hello there.")) localStorage.removeItem(name);
            }
        }"""
    )
    page.reload()
    expect(page.locator(".turn")).to_have_count(1)
    page.locator(".user").hover()
    page.click(".user [data-action=regenerate]")
    expect(answer(page)).to_have_text("Hello there.")


def test_only_the_newest_answer_can_be_made_again(page: Page) -> None:
    ask(page, "One")
    ask(page, "Two")
    expect(page.locator("[data-action=regenerate]:visible")).to_have_count(1)


def test_an_edited_message_begins_a_version_of_the_conversation(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["One."]), Answer(["Two."]), Answer(["Three."])]
    ask(page, "First")
    ask(page, "Second")
    page.locator(".user").first.hover()
    page.locator(".user [data-action=edit]").first.click()
    page.fill(".editor textarea", "First, but better")
    page.click("[data-action=send-edited]")
    expect(answer(page)).to_have_text("Three.")
    expect(page.locator(".said")).to_have_text(["First, but better"])
    assert messages(server.bodies[2]) == [("user", "First, but better")]
    page.locator(".user").hover()
    page.click(".user .versions [data-action=earlier]")
    expect(page.locator(".said")).to_have_text(["First", "Second"])
    expect(page.locator(".text")).to_have_text(["One.", "Two."])


def test_leaving_the_editor_changes_nothing(page: Page, server: StubServer) -> None:
    ask(page, "First")
    page.locator(".user").hover()
    page.click(".user [data-action=edit]")
    page.fill(".editor textarea", "Otherwise")
    page.press(".editor textarea", "Escape")
    expect(page.locator(".said")).to_have_text("First")
    assert len(server.bodies) == 1


def test_speed_first_token_and_context_are_shown(page: Page, server: StubServer) -> None:
    scripted = Answer(["a", "b", "c"], usage=(500, 40), gate_after=1)
    server.answers = [scripted]
    send(page, "Count")
    expect(answer(page)).to_have_text("a")
    threading.Timer(0.2, scripted.gate.set).start()
    figures = page.locator(".figures")
    expect(figures).to_have_text(re.compile(r"^[\d.]+ tokens/s · first token after [\d.]+ s · 40 tokens$"))
    rate = float(figures.inner_text().split()[0])
    assert 39 / 5 < rate < 39 / 0.2, "39 tokens followed the first one in a little more than 0.2 s"
    expect(page.locator("#context-text")).to_have_text("540 of 2,048 tokens")
    assert page.locator("#context-bar").evaluate("bar => [bar.value, bar.max]") == [540, 2048]


def test_an_answer_that_max_tokens_cut_says_so(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["Half a sen"], finish="length", usage=(9, 128))]
    ask(page, "Hello")
    expect(page.locator(".remark")).to_have_text("The answer reached max_tokens (128 tokens).")


def test_a_new_message_waits_while_an_answer_is_made(page: Page, server: StubServer) -> None:
    scripted = Answer(["Wait"], gate_after=1)
    server.answers = [scripted]
    send(page, "First")
    expect(answer(page)).to_have_text("Wait")
    send(page, "Second")
    expect(page.locator("#message")).to_have_value("Second")
    expect(page.locator(".said")).to_have_count(1)
    scripted.gate.set()


def test_the_page_stays_where_the_reader_has_scrolled_to(page: Page, server: StubServer) -> None:
    lines = [f"line {i}\n\n" for i in range(60)]
    scripted = Answer([*lines, "the end"], gate_after=60)
    server.answers = [scripted]
    send(page, "Much")
    expect(answer(page)).to_contain_text("line 59")
    scroll = page.locator("#scroll")
    assert scroll.evaluate("node => node.scrollTop > 100"), "it follows the text"
    scroll.evaluate("node => { node.scrollTop = 50; }")
    expect(page.locator("#latest")).to_be_visible()
    scripted.gate.set()
    expect(page.locator(".figures")).not_to_be_empty()
    assert scroll.evaluate("node => node.scrollTop") == 50
    page.click("#latest")
    expect(answer(page).get_by_text("the end")).to_be_in_viewport()


def test_copying_takes_the_source_of_the_answer_and_the_text_of_the_code(visit, server: StubServer) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    source = "**Bold**\n\n```python\nx = 1\n\nprint(x)\n```\n"
    server.answers = [Answer([source])]
    ask(page, "Code")
    page.click(".answer [data-action=copy]")
    expect(page.locator(".answer [data-action=copy].done")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == source
    page.click("[data-action=copy-code]")
    expect(page.locator(".code-copy.done")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "x = 1\n\nprint(x)\n"


def test_answers_of_two_conversations_are_made_at_once(page: Page, server: StubServer) -> None:
    slow, quick = Answer(["slow", " and steady"], gate_after=1), Answer(["quick"])
    server.answers = [slow, quick]
    send(page, "First")
    expect(answer(page)).to_have_text("slow")
    page.click(".new")
    assert ask(page, "Second") == "quick"
    expect(page.locator(".busy .open")).to_have_text("First")
    slow.gate.set()
    expect(page.locator(".busy")).to_have_count(0)
    page.click(".conversations >> text=First")
    expect(answer(page)).to_have_text("slow and steady")
