"""One browser and one scripted server for the tests of the page; a page that only asks its own server, and runs only
its own scripts, or the test fails. Without a browser the tests are skipped, and the run's last lines say so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.page.browser import launched, what_is_missing
from tests.server.page.guards import watch
from tests.server.page.stub_server import StubServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

HERE = Path(__file__).parent
TIMEOUT_MS = 10_000
# At a page's first load, not when it is loaded again.
FORGET = """if (!sessionStorage.getItem("is-clean")) {
    localStorage.clear();
    sessionStorage.setItem("is-clean", "yes");
}"""
USUAL = {"locale": "en-GB", "viewport": {"width": 1100, "height": 700}}

open_browser = ExitStack()
skipped: list[str] = []


@pytest.fixture(scope="session")
def browser() -> Browser:
    """Closed by the hook below, not at the session's end: while it is open, no other test can run an event loop."""
    if missing := what_is_missing():
        pytest.skip(f"no browser: {missing}")
    from playwright.sync_api import expect

    expect.set_options(timeout=TIMEOUT_MS)
    return open_browser.enter_context(launched())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    if nextitem is None or HERE not in nextitem.path.parents:
        open_browser.close()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "no browser" in str(report.longrepr):
        skipped.append(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if skipped:
        line = f"THE PAGE WAS NOT TESTED ({len(skipped)} tests skipped): {what_is_missing()}"
        terminalreporter.write_line(line, red=True, bold=True)


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


@pytest.fixture(scope="session")
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
