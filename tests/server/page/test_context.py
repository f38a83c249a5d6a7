"""A conversation that fills the model's context, and what the page offers then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask, messages
from tests.server.page.stub_server import Answer

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer

TOO_LONG = {"message": "the prompt has 3000 tokens", "code": "context_length_exceeded"}


def talk(page: Page, server: StubServer, *, tokens: int) -> None:
    """Four questions and answers of the same length; the last one leaves so many tokens used."""
    server.answers = [Answer([f"answer {i}"], usage=(tokens - 1 if i == 4 else 20, 1)) for i in range(1, 5)]
    for i in range(1, 5):
        ask(page, f"number {i}")


def test_room_is_offered_only_when_the_context_is_nearly_full(page: Page, server: StubServer) -> None:
    talk(page, server, tokens=1000)
    expect(page.locator("#room")).to_be_hidden()
    server.answers = [Answer(["more"], usage=(1900, 1))]
    ask(page, "On")
    expect(page.locator("#room")).to_be_visible()


def test_the_oldest_turns_are_left_out_stay_to_be_read_and_can_be_sent_again(page: Page, server: StubServer) -> None:
    talk(page, server, tokens=2000)
    page.click("#drop-oldest")
    expect(page.locator("#room")).to_be_hidden()
    expect(page.locator(".unsent")).to_have_count(4)
    expect(page.locator("#unsent")).to_be_visible()
    page.reload()
    ask(page, "And now?")
    texts = ["number 3", "answer 3", "number 4", "answer 4", "And now?"]
    assert [text for _, text in messages(server.bodies[-1])] == texts
    expect(page.locator("#context-text")).to_have_text("22 of 2,048 tokens")
    page.click("#unsent >> text=Include them again")
    expect(page.locator(".unsent")).to_have_count(0)
    ask(page, "All")
    assert len(server.bodies[-1]["messages"]) == 11


def test_a_message_that_no_longer_fits_is_sent_without_the_oldest_turns(page: Page, server: StubServer) -> None:
    talk(page, server, tokens=1000)
    server.answers = [Answer(status=400, error=TOO_LONG), Answer(["It fits."])]
    ask(page, "One more")
    page.click(".failure >> text=Leave out the oldest messages")
    expect(answer(page)).to_have_text("It fits.")
    assert [text for _, text in messages(server.bodies[-1])] == ["number 4", "answer 4", "One more"]


def test_a_single_message_that_is_too_long_is_told(page: Page, server: StubServer) -> None:
    server.answers = [Answer(status=400, error=TOO_LONG)]
    ask(page, "Much")
    page.click(".failure >> text=Leave out the oldest messages")
    expect(page.locator(".toast span").first).to_contain_text("A single message fills the context")


def test_a_new_conversation_begins_with_a_summary(page: Page, server: StubServer) -> None:
    talk(page, server, tokens=2000)
    server.answers = [Answer(status=400, error=TOO_LONG), Answer(["We counted", " to four."])]
    page.click("#summarise")
    expect(page.locator("#message")).to_have_value("Summary of our conversation so far: We counted to four.\n\n")
    expect(page.locator(".turn")).to_have_count(0)
    whole, shortened = (messages(body) for body in server.bodies[-2:])
    assert len(whole) == 9
    assert whole[-1] == shortened[-1]
    assert shortened[0] == ("user", "number 3")
    assert "Summarise" in whole[-1][1]
    page.reload()
    expect(page.locator("#message")).to_have_value("Summary of our conversation so far: We counted to four.\n\n")
    expect(page.locator(".conversations .open")).to_have_text("number 1")


def test_a_summary_that_fails_is_told(page: Page, server: StubServer) -> None:
    talk(page, server, tokens=2000)
    server.answers = [Answer(status=500, error={"message": ""})]
    page.click("#summarise")
    expect(page.locator(".toast span").first).to_have_text("Summarising failed: Something went wrong on the server.")
    expect(page.locator(".turn")).to_have_count(8)
