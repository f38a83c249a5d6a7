"""The page in a browser: it speaks the reader's language, shows the other one on request, and loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.golden_data import REPOSITORY
from tests.server.page.browser import NO_BROWSER, expect, launched, what_is_missing

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE = (REPOSITORY / "docs" / "demo_card" / "card.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if missing := what_is_missing():
        pytest.skip(f"{NO_BROWSER}{missing}")
    with launched() as found:
        yield found


@pytest.mark.parametrize(("locale", "first", "second"), [("en-GB", "en", "zh"), ("zh-CN", "zh", "en")])
def test_the_readers_language_then_the_other(browser: Browser, locale: str, first: str, second: str) -> None:
    context = browser.new_context(locale=locale)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(PAGE)
    expect(page.locator(f"article[lang={first}]")).to_be_visible()
    expect(page.locator(f"article[lang={second}]")).to_be_hidden()
    page.locator(f"nav button[lang={second}]").click()
    expect(page.locator(f"article[lang={second}]")).to_be_visible()
    expect(page.locator(f"article[lang={first}]")).to_be_hidden()
    assert page.evaluate("document.documentElement.lang") == second
    widths = page.locator("article img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) == 4 and all(width > 0 for width in widths)
    assert said == [PAGE]
    context.close()


def test_a_phone_scrolls_tables_not_the_page(browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(PAGE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
