"""What the user sees, and what is kept, when a request fails."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask, messages, send
from tests.server.page.stub_server import Answer

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from tests.server.page.stub_server import StubServer


def refusal(status: int, message: str = "", code: str | None = None, **headers: str) -> Answer:
    return Answer(status=status, error={"message": message, "code": code}, headers=headers)


def test_a_stream_that_is_cut_is_an_error_and_its_text_is_kept(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["Half an ", "answer"], is_cut=True), Answer(["Whole."])]
    ask(page, "Hello")
    expect(page.locator(".failure")).to_contain_text("The connection was lost before the answer was complete.")
    expect(answer(page)).to_have_text("Half an answer")
    page.click("[data-action=retry]")
    expect(answer(page)).to_have_text("Whole.")
    assert messages(server.bodies[1]) == [("user", "Hello")]
    expect(page.locator(".failure")).to_have_count(0)


def test_an_error_event_shows_the_servers_words(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["Some"], error={"message": "the engine has stopped <b>"})]
    ask(page, "Hello")
    expect(page.locator(".failure")).to_contain_text("Something went wrong on the server.")
    expect(page.locator(".detail")).to_have_text("the engine has stopped <b>")
    expect(answer(page)).to_have_text("Some")


def test_a_busy_server_can_be_asked_again_when_it_said(visit, server: StubServer) -> None:
    page = visit(locale="en-GB")
    page.clock.install()
    server.answers = [refusal(429, "64 requests wait", **{"Retry-After": "7"}), Answer(["Now."])]
    send(page, "Hello")
    retry = page.locator("[data-action=retry]")
    expect(retry).to_have_text(re.compile(r"Try again in [67] s"))
    expect(retry).to_be_disabled()
    page.clock.fast_forward(8_000)
    expect(retry).to_have_text("Try again")
    retry.click()
    page.clock.run_for(100)
    expect(answer(page)).to_have_text("Now.")


@pytest.mark.parametrize(
    ("scripted", "words"),
    [
        (refusal(503, "draining"), "The server is not ready"),
        (refusal(500, "internal error"), "Something went wrong on the server."),
        (refusal(400, "top_p must be from 0 to 1"), "top_p must be from 0 to 1"),
        (refusal(413), "The server rejected the request."),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else None,
)
def test_each_status_has_its_words(page: Page, server: StubServer, scripted: Answer, words: str) -> None:
    server.answers = [scripted]
    ask(page, "Hello")
    expect(page.locator(".failure")).to_contain_text(words)
    expect(page.locator("[data-action=retry]")).to_be_visible()


@pytest.mark.parametrize("place", ["status", "event"])
def test_a_conversation_that_is_too_long_is_told_so(page: Page, server: StubServer, place: str) -> None:
    code = "context_length_exceeded"
    event = Answer([], error={"message": "too long", "code": code})
    server.answers = [refusal(400, "too long", code) if place == "status" else event]
    ask(page, "Hello")
    expect(page.locator(".failure")).to_contain_text("longer than the model's context")
    page.click(".failure [data-action=new]")
    expect(page.locator(".turn")).to_have_count(0)


def test_an_answer_that_failed_empty_is_not_sent_along(page: Page, server: StubServer) -> None:
    server.answers = [refusal(500)]
    ask(page, "First")
    ask(page, "Second")
    assert messages(server.bodies[1]) == [("user", "First"), ("user", "Second")]


def test_a_server_that_is_gone_is_told_and_found_again(page: Page, server: StubServer) -> None:
    page.context.set_offline(True)
    try:
        send(page, "Hello")
        expect(page.locator(".failure")).to_contain_text("The server cannot be reached.")
    finally:
        page.context.set_offline(False)
    page.click("[data-action=retry]")
    expect(answer(page)).to_have_text("Hello there.")


def test_a_server_that_lists_no_models_is_told_and_asked_again(page: Page, server: StubServer) -> None:
    broken = page.context.new_page()
    broken.route("**/v1/models", lambda route: route.fulfill(status=200, body="<html>", content_type="text/html"))
    broken.goto(server.url)
    expect(broken.locator(".notice")).to_contain_text("The response did not come from a Qwartet server.")
    broken.unroute("**/v1/models")
    broken.click(".notice .quiet")
    expect(broken.locator("#model-name")).to_have_text("qwen-demo")
    expect(broken.locator(".notice")).to_have_count(0)
    broken.close()


@pytest.mark.parametrize("how", ["loading", "gone"])
def test_a_page_that_was_opened_too_early_notices_that_the_server_is_ready(
    page: Page, server: StubServer, how: str
) -> None:
    def answer_early(route: Route) -> None:
        if how == "gone":
            route.abort()
            return
        error = {"message": "the model is loading", "type": "server_error", "param": None, "code": "loading"}
        route.fulfill(status=503, json={"error": error})

    early = page.context.new_page()
    early.route("**/v1/models", answer_early)
    early.goto(server.url)
    words = "The server is not ready" if how == "loading" else "The server cannot be reached."
    expect(early.locator(".notice")).to_contain_text(words)
    expect(early.locator(".notice")).to_contain_text("Retrying automatically.")
    early.unroute("**/v1/models")
    expect(early.locator("#model-name")).to_have_text("qwen-demo")
    expect(early.locator(".notice")).to_have_count(0)
    expect(early.locator("#context")).to_be_hidden()
    early.close()


@pytest.mark.parametrize("when", ["a request fails", "the tab is looked at again"])
def test_a_page_that_is_older_than_its_server_says_so(page: Page, server: StubServer, when: str) -> None:
    expect(page.locator("#version")).to_have_text("Qwartet 0.0.test")
    ask(page, "Last week")
    server.version = "0.0.next"
    if when == "a request fails":
        server.answers = [refusal(400, "unsupported field 'last_week'")]
        ask(page, "Now")
    else:
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator(".notice p")).to_have_text("The server now runs version 0.0.next; reload the page.")
    page.click("#switch-language")
    expect(page.locator(".notice p")).to_have_text("服务器已更新到 0.0.next 版本，请刷新页面。")
    expect(page.locator(".notice .quiet")).to_have_text("刷新")
    page.click(".notice .quiet")
    expect(page.locator(".notice")).to_have_count(0)
    expect(page.locator(".said").first).to_have_text("Last week")


def test_a_key_is_asked_for_where_the_server_wants_one(page: Page, server: StubServer) -> None:
    expect(page.locator("#model-name")).to_have_text("qwen-demo")
    server.key = "sesame"
    send(page, "Hello")
    page.fill("#key-field", "wrong")
    page.press("#key-field", "Enter")
    expect(page.locator("#key-problem")).to_be_visible()
    page.fill("#key-field", "sesame")
    page.press("#key-field", "Enter")
    expect(answer(page)).to_have_text("Hello there.")


def test_the_key_stays_in_the_tab(page: Page, server: StubServer) -> None:
    server.key = "sesame"
    page.reload()
    page.fill("#key-field", "sesame")
    page.press("#key-field", "Enter")
    expect(page.locator("#model-name")).to_have_text("qwen-demo")
    page.reload()
    expect(page.locator("#model-name")).to_have_text("qwen-demo")
    assert "sesame" not in page.evaluate("JSON.stringify(localStorage)")
    other = page.context.new_page()
    other.goto(server.url)
    expect(other.locator("#key")).to_be_visible()
    other.close()


def test_a_reload_in_the_middle_keeps_what_was_there(page: Page, server: StubServer) -> None:
    server.answers = [Answer(["Half"], gate_after=1)]
    send(page, "Hello")
    expect(answer(page)).to_have_text("Half")
    page.reload()
    expect(answer(page)).to_have_text("Half")
    expect(page.locator(".failure")).to_contain_text("The connection was lost before the answer was complete.")
