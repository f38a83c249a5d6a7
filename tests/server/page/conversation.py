"""User actions on the page, as helpers for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ANSWER = ".answer:last-child .text"
DONE = ".answer:last-child:not(.making) .foot .actions"


def send(page: Page, text: str) -> None:
    """Writes a message and sends it, without waiting for the answer."""
    page.fill("#message", text)
    page.press("#message", "Enter")


def ask(page: Page, text: str) -> str:
    """Sends a message; the text of its answer when that is complete."""
    number = page.locator(".answer").count() + 1
    send(page, text)
    page.wait_for_selector(f".answer:nth-of-type({2 * number}){DONE.removeprefix('.answer')}", state="attached")
    return page.inner_text(ANSWER)


def answer(page: Page) -> Locator:
    """The text of the newest answer."""
    return page.locator(ANSWER)


def messages(body: dict) -> list[tuple[str, str]]:
    """Roles and contents of a request."""
    return [(message["role"], message["content"]) for message in body["messages"]]
