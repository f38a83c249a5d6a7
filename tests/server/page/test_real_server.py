"""The page with a real server."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from qwartet import LLM
from qwartet.server.access import Access
from tests.server.page.conversation import ask, send
from tests.server.running_server import RunningServer, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

KEY = "a-key-of-the-page"


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture
def server(llm: LLM) -> Iterator[RunningServer]:
    with RunningServer(llm) as running:
        yield running


def test_a_conversation_with_the_bundled_model(visit: Callable[..., Page], server: RunningServer) -> None:
    page = visit(url=server.url)
    assert re.search(r"23 \+ 45 = 68", ask(page, "What is 23 + 45?"))
    ask(page, "My name is Rosa.")
    assert "Rosa" in ask(page, "What is my name?")


def test_an_answer_that_was_cut_goes_on(visit: Callable[..., Page], server: RunningServer) -> None:
    page = visit(url=server.url)
    page.click(".sidebar [data-action=settings]")
    page.fill("#sampling-max_tokens", "4")
    page.check("#greedy")
    page.press("#settings", "Escape")
    begun = ask(page, "What is the capital of France?")
    page.click(".sidebar [data-action=settings]")
    page.fill("#sampling-max_tokens", "")
    page.press("#settings", "Escape")
    page.click("[data-action=continue]")
    page.wait_for_selector(".answer:not(.making) .text >> text=Paris")
    assert page.inner_text(".answer .text") == "The capital of France is Paris."
    assert begun != "The capital of France is Paris."


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_the_bundled_model_answers_what_the_page_suggests(
    visit: Callable[..., Page], server: RunningServer, locale: str
) -> None:
    page = visit(url=server.url, locale=locale)
    page.click(".sidebar [data-action=settings]")
    page.check("#greedy")
    page.press("#settings", "Escape")
    answers = []
    for place in range(4):
        page.click(".new")
        page.locator(".starters button").nth(place).click()
        page.wait_for_selector(".answer:not(.making) .foot .actions", state="attached")
        answers.append(page.inner_text(".answer .text"))
    wanted = {
        "en-GB": ["add and subtract", "Paris", "23 + 45 = 68", "byte"],
        "zh-CN": ["算加减法", "巴黎", "23 + 45 = 68", "小模型"],
    }[locale]
    assert [word for word, answer in zip(wanted, answers, strict=True) if word not in answer] == [], answers


def test_stopping_frees_the_engine(
    visit: Callable[..., Page], server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, may_go_on = server.llm.engine.runner.run, threading.Event()
    monkeypatch.setattr(server.llm.engine.runner, "run", lambda batch: may_go_on.wait(30) and run(batch))
    page = visit(url=server.url)
    send(page, "What is 23 + 45?")
    wait_for(lambda: server.service.num_open == 1)
    page.keyboard.press("Escape")
    wait_for(lambda: server.service.num_open == 0)
    may_go_on.set()
    wait_for(server.is_idle)


def test_with_a_key_the_page_asks_for_it(visit: Callable[..., Page], llm: LLM) -> None:
    with RunningServer(llm, access=Access(api_keys=[KEY])) as server:
        page = visit(url=server.url)
        field = page.locator("dialog[open] input[type=password]")
        field.fill(KEY)
        field.press("Enter")
        assert "68" in ask(page, "What is 23 + 45?")


def test_the_description_of_the_api_is_a_page_too(visit: Callable[..., Page], server: RunningServer) -> None:
    page = visit(url=server.url)
    page.goto(f"{server.url}/docs")
    assert "POST /v1/chat/completions" in page.inner_text("main")


@pytest.mark.parametrize(("path", "found"), [("//", "/"), ("/docs/", "/docs")])
def test_an_extra_slash_leads_to_the_page_with_its_style(
    visit: Callable[..., Page], server: RunningServer, path: str, found: str
) -> None:
    page = visit(url=server.url)
    page.goto(server.url + path)
    assert page.url == server.url + found
    assert page.evaluate("document.styleSheets[0].cssRules.length") > 0
