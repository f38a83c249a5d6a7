"""Thinking on the page: folded above the answer, kept with it, and switched where the model can do both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask, messages, send
from tests.server.page.stub_server import Answer

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer

THOUGHTS = ".answer:last-child .reasoning"


def test_thinking_is_folded_while_it_grows_and_behind_a_word_afterwards(page: Page, server: StubServer) -> None:
    scripted = Answer(["Oslo."], reasoning=["The capital", " of Norway"], gate_after=2)
    server.answers = [scripted]
    send(page, "Where?")
    expect(page.locator(f"{THOUGHTS} summary")).to_have_text("Thinking…")
    expect(page.locator(f"{THOUGHTS} .reasoning-text")).not_to_be_visible()
    expect(page.locator(".waiting")).to_have_count(0)
    page.click(f"{THOUGHTS} summary")
    expect(page.locator(f"{THOUGHTS} .reasoning-text")).to_have_text("The capital of Norway")
    scripted.gate.set()
    expect(answer(page)).to_have_text("Oslo.")
    expect(page.locator(f"{THOUGHTS} summary")).to_have_text("Thoughts")


def test_thinking_is_text_that_is_kept_and_not_sent_again(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["Oslo."], reasoning=["**a** <b>", "\n</think>"])]
    ask(page, "Where?")
    page.reload()
    page.click(f"{THOUGHTS} summary")
    assert page.locator(f"{THOUGHTS} .reasoning-text").text_content() == "**a** <b>\n</think>"
    assert page.locator(f"{THOUGHTS} b").count() == 0
    ask(page, "And now?")
    assert messages(server.bodies[1]) == [("user", "Where?"), ("assistant", "Oslo."), ("user", "And now?")]
    assert all(message.keys() == {"role", "content"} for message in server.bodies[1]["messages"])


def test_an_answer_without_thinking_shows_none(page: Page, server: StubServer) -> None:
    ask(page, "Hello")
    expect(page.locator(THOUGHTS)).not_to_be_visible()


def test_an_answer_made_again_has_thoughts_of_its_own(page: Page, server: StubServer) -> None:
    server.answers = [Answer([], reasoning=["one"], finish="length"), Answer(["Oslo."], reasoning=["two"])]
    ask(page, "Where?")
    expect(page.locator(".remark")).to_contain_text("max_tokens")
    page.click(".answer [data-action=regenerate]")
    expect(answer(page)).to_have_text("Oslo.")
    assert page.locator(f"{THOUGHTS} .reasoning-text").text_content() == "two"


def test_the_switch_is_there_for_models_that_can_do_both_and_its_state_is_sent(visit, server: StubServer) -> None:
    server.models = [server.model("qwen3", thinking="optional")]
    page = visit()
    expect(page.locator("#think")).to_have_attribute("aria-pressed", "true")
    ask(page, "Hello")
    page.click("#think")
    expect(page.locator("#think")).to_have_attribute("aria-pressed", "false")
    ask(page, "Hello")
    page.reload()
    expect(page.locator("#think")).to_have_attribute("aria-pressed", "false")
    sent = [body["chat_template_kwargs"] for body in server.bodies]
    assert sent == [{"enable_thinking": True}, {"enable_thinking": False}]


def test_other_models_have_no_switch(visit, server: StubServer) -> None:
    for thinking in (None, "never", "always"):
        server.models = [server.model("qwen", thinking=thinking)]
        page = visit()
        ask(page, "Hello")
        expect(page.locator("#think")).not_to_be_visible()
        assert "chat_template_kwargs" not in server.bodies[-1]
