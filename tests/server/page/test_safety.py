"""SEC-21: a model's text is only displayed; it runs nothing, loads nothing, and hides no link target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask
from tests.server.page.guards import watch
from tests.server.page.stub_server import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext, Page

    from tests.server.page.stub_server import StubServer

EVIL = "http://evil.example"
# The guards see any request elsewhere, dialog, window, or violation of the policy.
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "onerror": "<img src=x onerror=alert(1)>",
    "image": f"<img src='{EVIL}/x.png'>",
    "svg": "<svg/onload=alert(1)><use href='data:image/svg+xml,x'></svg>",
    "style": f"<style>@import '{EVIL}/x.css';</style><link rel=stylesheet href='{EVIL}/x.css'>",
    "frame": f"<iframe srcdoc='<script>alert(1)</script>' src='{EVIL}'></iframe>",
    "form": f"<form action='{EVIL}'><input autofocus onfocus=alert(1)></form>",
    "meta": f"<meta http-equiv=refresh content='0;url={EVIL}'><base href='{EVIL}/'>",
    "javascript link": "[click](javascript:alert(1))",
    "javascript link in disguise": "[a](\tJaVa&#x53;cript:alert(1)) [b](java\\\nscript:alert(1))",
    "javascript link after a control character": "[a](\x01javascript:alert(1)) [b](<\x00javascript:alert(1)>)",
    "javascript autolink": "<javascript:alert(1)>",
    "data link": "[click](data:text/html,<script>alert(1)</script>) [c](vbscript:alert(1)) [c](file:///etc/passwd)",
    "beacon": f"![pixel]({EVIL}/p.png?secret) ![x](<{EVIL}/y.png> \"t\") [![z]({EVIL}/z.png)](javascript:alert(1))",
    "attribute": '[a](https://ok.example/"onmouseover="alert(1)) `"><img src=x onerror=alert(1)>`',
    "language": "```\"><img/src=x/onerror=alert(1)>\nx\n```",
    "table": "|<img src=x onerror=alert(1)>|\n|---|\n|<script>alert(1)</script>|",
    "entities": "&lt;img src=x onerror=alert(1)&gt; &#60;script&#62;alert(1)&#60;/script&#62;",
    "heading": "# <img src=x onerror=alert(1)>\n> <script>alert(1)</script>\n- <svg onload=alert(1)>",
    "formula": r"\(\text{<img src=x onerror=alert(1)>} \href{javascript:alert(1)}{x}\) $$\boxed{<script>}$$",
    "footnote": 'a[^"><img/src=x/onerror=alert(1)>]\n\n[^"><img/src=x/onerror=alert(1)>]: <script>alert(1)</script>',
    "task": "- [x] <img src=x onerror=alert(1)>\n- [ ] [a](javascript:alert(1))",
    "template": "<template><script>alert(1)</script></template><noscript><img src=x onerror=alert(1)>",
}  # fmt: skip
SHOWN = {"A", "B", "BLOCKQUOTE", "BR", "BUTTON", "CODE", "DEL", "DIV", "EM", "H3", "H4", "H5", "H6", "HR", "LI", "OL"}
FORMULA = {"math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup"}
FORMULA |= {"mover", "munder", "munderover", "mtable", "mtr", "mtd"}
FORMULA_ATTRIBUTES = {
    "display",
    "stretchy",
    "fence",
    "form",
    "largeop",
    "accent",
    "linethickness",
    "mathvariant",
    "width",
}
ATTRIBUTES = {"href", "title", "target", "rel", "class", "dir", "type", "data-action", "tabindex", "role", "aria-label"}
SHOWN |= {"P", "PRE", "SPAN", "STRONG", "TABLE", "TBODY", "TD", "SUP", "TH", "THEAD", "TR", "UL"} | FORMULA
ATTRIBUTES |= {"data-note", "id"} | FORMULA_ATTRIBUTES


@pytest.fixture(scope="module")
def watched(usual_context: BrowserContext, running_server: StubServer) -> Iterator[tuple[Page, list[str]]]:
    """One page for all of them, and what its guards have seen."""
    page = usual_context.new_page()
    complaints: list[str] = []
    watch(page, running_server.url, complaints)
    page.goto(running_server.url)
    yield page, complaints
    page.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_sec_21_hostile_markdown_is_text(watched, server: StubServer, name: str) -> None:
    page, complaints = watched
    page.click(".new")
    server.answers = [Answer([HOSTILE[name]])]
    ask(page, HOSTILE[name])
    page.mouse.move(500, 300)
    tags, attributes = page.evaluate(
        """() => {
            const nodes = [...document.querySelectorAll(".answer:last-child .text *")];
            return [nodes.map((node) => node.tagName), nodes.flatMap((node) => node.getAttributeNames())];
        }"""
    )
    assert set(tags) <= SHOWN
    assert set(attributes) <= ATTRIBUTES
    addresses = page.eval_on_selector_all(".answer a", "links => links.map((link) => link.protocol)")
    assert set(addresses) <= {"http:", "https:"}
    assert complaints == []


def test_sec_21_titles_system_prompts_and_names_of_models_are_text(page: Page, server: StubServer) -> None:
    markup = "<img src=x onerror=alert(1)>"
    server.models = [server.model(markup)]
    page.reload()
    page.click(".sidebar [data-action=settings]")
    page.fill("#system", markup)
    page.keyboard.press("Escape")
    server.answers = [Answer(status=500, error={"message": markup})]
    ask(page, markup)
    for place in ("#title", ".conversations .open", "#model-name", ".system span", ".said", ".detail"):
        expect(page.locator(place)).to_have_text(markup)
    assert page.locator("img").count() == 0


def test_sec_21_links_open_elsewhere_and_tell_nothing(page: Page, server: StubServer) -> None:
    text = "[a](https://a.example) https://b.example. <mailto:c@d.example> [e](/f) [g](//h.example)"
    server.answers = [Answer([text])]
    ask(page, "Links")
    links = answer(page).locator("a")
    assert links.evaluate_all("nodes => nodes.map((node) => node.href)") == [
        "https://a.example/", "https://b.example/", "mailto:c@d.example",
    ]  # fmt: skip
    assert set(links.evaluate_all("nodes => nodes.map((node) => [node.rel, node.target].join('|'))")) == {
        "noopener noreferrer nofollow|_blank"
    }
    expect(answer(page)).to_contain_text("[e](/f) [g](//h.example)")


def test_sec_21_the_guards_of_these_tests_see_a_script_that_runs(browser, server: StubServer) -> None:
    """What the page must never do, done on purpose: else all tests above could pass by seeing nothing."""
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    watch(page, server.url, complaints)
    page.goto(server.url)
    page.evaluate(f"new Image().src = '{EVIL}/x.png'")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), { text: 'alert(1)' }))")
    page.evaluate("alert(2)")
    page.wait_for_function("document.body")
    context.close()
    found = "\n".join(complaints)
    assert "Content Security Policy" in found
    assert "a script opened a dialog: 2" in found
    assert "img-src" in found or EVIL in found
    assert "dialog: 1" not in found, "the policy did not hold"
