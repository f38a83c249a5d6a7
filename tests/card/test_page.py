"""The page stands by itself: nothing is loaded, nothing in it runs but its own script, both languages are in it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from qwartet.card.files import card_files
from qwartet.card.page import page
from tests.card.made import card

PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of each script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style"):
            self.inside[self._open] = self.inside.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def elements() -> Elements:
    return Elements(card_files(card(), {"needle.svg": PICTURE})["card.html"].decode())


def test_nothing_is_loaded_and_nothing_else_runs(elements) -> None:
    for tag, attributes in elements.found:
        assert not {name for name in attributes if name.startswith("on") or name in ("style", "srcset", "background")}
        for name in ("src", "href", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert not any(elements.all(tag) for tag in ("link", "iframe", "object", "embed", "base", "form"))
    [policy] = [one["content"] for one in elements.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    for kind, text in elements.inside.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_both_languages_and_their_pictures_are_in_it(elements) -> None:
    assert [one["lang"] for one in elements.all("article")] == ["en", "zh"]
    pictures = elements.all("img")
    assert len(pictures) == 2 and all(one["alt"] for one in pictures)
    for one in pictures:
        assert base64.b64decode((one["src"] or "").removeprefix("data:image/svg+xml;base64,")) == PICTURE


def test_html_and_addresses_in_the_text_are_inert() -> None:
    text = "# t\n\n<script>alert(1)</script> <img src=x onerror=alert(1)>\n\n[x](javascript:alert(1)) ![a](http://x/y.png)\n"
    found = Elements(page("<b>t</b>", {"en": text, "zh": text}, {}))
    assert len(found.all("script")) == 1 and not found.all("a") and not found.all("b")
    assert [one["src"] for one in found.all("img")] == ["", ""]


def test_numbers_are_aligned_without_styles_of_their_own(elements) -> None:
    assert any(one.get("class") == "right" for one in elements.all("td"))


def test_the_same_content_gives_the_same_bytes() -> None:
    first, second = (card_files(card(), {"needle.svg": PICTURE}) for _ in range(2))
    assert first == second and set(first) == {"card.html", "card.md", "card.zh.md", "needle.svg"}
    assert re.search(r"<table>.*</table></div>", first["card.html"].decode(), re.DOTALL)
