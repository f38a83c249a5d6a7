"""One browser and one scripted server for the tests of the page; a page that only asks its own server, and runs only
its own scripts, or the test fails. Without a browser the tests are skipped, and the run's last lines say so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.page.browser import NO_BROWSER, launched, what_is_missing
from tests.server.page.guards import watch
from tests.server.page.stub_server import StubServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

TIMEOUT_MS = 10_000
# At a page's first load, not when it is loaded again.
FORGET = """if (!sessionStorage.getItem("is-clean")) {
    localStorage.clear();
    sessionStorage.setItem("is-clean", "yes");
}"""
USUAL = {"locale": "en-GB", "viewport": {"width": 1100, "height": 700}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each file: while it is open, no other test can run an event loop."""
    if missing := what_is_missing():
        pytest.skip(f"{NO_BROWSER}{missing}")
    from playwright.sync_api import expect

    expect.set_options(timeout=TIMEOUT_MS)
    with launched() as found:
        yield found


@pytest.fixture(scope="session")
def running_server() -> Iterator[StubServer]:
    server = StubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running_server: StubServer) -> StubServer:
    running_server.reset()
    return running_server


@pytest.fixture(scope="module")
def usual_context(browser: Browser) -> BrowserContext:
    """For tests that ask for nothing else; to make one for each takes longer than most of them."""
    return browser.new_context(**USUAL)


@pytest.fixture
def visit(browser: Browser, usual_context: BrowserContext, server: StubServer) -> Iterator[Callable[..., Page]]:
    """Opens the page as somebody who has never been there; `url` is another server's, `settings` are a context's."""
    contexts = []
    pages = []
    complaints: list[str] = []

    def open_page(*, url: str = server.url, init_script: str | None = None, **settings: Any) -> Page:
        context = usual_context
        if settings:
            context = browser.new_context(**{**USUAL, **settings})
            contexts.append(context)
        page = context.new_page()
        pages.append(page)
        page.set_default_timeout(TIMEOUT_MS)
        page.add_init_script(FORGET)
        if init_script:
            page.add_init_script(init_script)
        watch(page, url, complaints)
        page.goto(url)
        return page

    yield open_page
    for opened in [*pages, *contexts]:
        opened.close()
    assert complaints == []


@pytest.fixture
def page(visit: Callable[..., Page]) -> Page:
    return visit()
