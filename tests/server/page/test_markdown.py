"""Markdown rendering in the browser: the result, the same in pieces as at once, and linear time."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MAX_SECONDS = 2.0  # for a million characters, on a slow machine that others use too

CASES = {
    "paragraphs": ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
    "emphasis": ("**b** ***c*** ~~d~~", "<p><strong>b</strong> <em><strong>c</strong></em> <del>d</del></p>"),
    "no emphasis": ("2 * 3 * 4, snake_case_name, ~5", "<p>2 * 3 * 4, snake_case_name, ~5</p>"),
    "emphasis beside Chinese": ("**注意：**看**“这”**。", "<p><strong>注意：</strong>看<strong>“这”</strong>。</p>"),
    "overlapping marks": ("*a _b* c_", "<p><em>a _b</em> c_</p>"),
    "headings": ("# A #\n###### B\n#no", '<h3 class="level-1">A</h3><h6 class="level-6">B</h6><p>#no</p>'),
    "rule": ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
    "list": ("- a\n- b\n  - c", "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul></li></ul>"),
    "numbers": ("3. a\n4. b", '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>'),
    "loose list": ("- a\n\n- b", '<ul class="loose"><li><p>a</p></li><li><p>b</p></li></ul>'),
    "a year is no list": ("It was in\n1986. What a year", "<p>It was in<br>1986. What a year</p>"),
    "bullets under a number, two columns in": ("1. a\n  - b", "<ol><li><p>a</p><ul><li><p>b</p></li></ul></li></ol>"),
    "quote": ("> a\nb\n> > c", "<blockquote><p>a<br>b</p><blockquote><p>c</p></blockquote></blockquote>"),
    "code span": ("`` a`b `` and `*c*`", "<p><code>a`b</code> and <code>*c*</code></p>"),
    "unclosed code span": ("a `b", "<p>a `b</p>"),
    "link": (
        '[a *b*](https://x.org/(y) "title")',
        '<p><a href="https://x.org/(y)" title="https://x.org/(y)" target="_blank" '
        'rel="noopener noreferrer nofollow">a <em>b</em></a></p>',
    ),
    "escapes and entities": (r"\*a\* &lt;b&gt; &bogus;", "<p>*a* &lt;b&gt; &amp;bogus;</p>"),
    "a formula with a command that is not known": (
        r"so \(a_1 * b_1 * \foo\) holds", r'<p>so <code class="math">\(a_1 * b_1 * \foo\)</code> holds</p>',
    ),
    "formula": (
        r"so \(a_1\) holds",
        "<p>so <math><mrow><msub><mi>a</mi><mn>1</mn></msub></mrow></math> holds</p>",
    ),
    "formula between dollars": ("is $x$.", "<p>is <math><mrow><mi>x</mi></mrow></math>.</p>"),
    "sums of money": ("from $5 to $10, or $3-$4", "<p>from $5 to $10, or $3-$4</p>"),
    "formula on lines of its own": (
        "so\n$$\na\n+ b\n$$\nthen",
        '<p>so</p><math display="block"><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow></math><p>then</p>',
    ),
    "formula that has no end": ("\\[\na\n- b\n\nthen", "<p>[<br>a<br>- b</p><p>then</p>"),
    "formula in an item": (
        "- a\n  \\[\n  b\n  \\]",
        '<ul><li><p>a</p><math display="block"><mrow><mi>b</mi></mrow></math></li></ul>',
    ),
    "tasks": (
        "- [x] a\n- [ ] b\n- [y] c",
        '<ul><li class="task"><span class="box done" role="img" aria-label="Done"></span><p>a</p></li>'
        '<li class="task"><span class="box" role="img" aria-label="To do"></span><p>b</p></li>'
        "<li><p>[y] c</p></li></ul>",
    ),
    "footnotes": (
        "a[^1] b[^x]\n\n[^1]: One\ntwo\n[^2]: Other",
        '<p>a<span class="note-reference" data-note="1"><sup><a href="#note" aria-label="Footnote 1">1</a></sup></span>'
        ' b<span class="note-reference" data-note="x">[^x]</span></p>'
        '<div class="footnote" data-note="1" id="note">'
        '<span class="note-label" aria-label="Footnote 1" role="img">1</span>'
        '<p>One<br>two</p></div>'
        '<div class="footnote" data-note="2"><span class="note-label" aria-label="Footnote 2" role="img">2</span>'
        "<p>Other</p></div>",
    ),
    "table": (
        "|a|b|\n|:-:|-:|\n|1 \\| 2|*3*|\n|4",
        '<table><thead><tr><th class="align-center">a</th><th class="align-end">b</th></tr></thead><tbody>'
        '<tr><td class="align-center">1 | 2</td><td class="align-end"><em>3</em></td></tr>'
        '<tr><td class="align-center">4</td></tr></tbody></table>',
    ),
    "no table": ("a | b\n--- | --- | ---", "<p>a | b<br>--- | --- | ---</p>"),
    "code": ("```\n<b>&\n\n  x\n```\nafter", "<pre><code>&lt;b&gt;&amp;\n\n  x\n</code></pre><p>after</p>"),
    "code in a list": ("- a\n  ```\n  x\n  ```", "<ul><li><p>a</p><pre><code>x\n</code></pre></li></ul>"),
    "fence in a longer fence": ("````\n```\n````", "<pre><code>```\n</code></pre>"),
    "windows lines": ("a\r\n\r\nb\r", "<p>a</p><p>b</p>"),
}  # fmt: skip

DRAW = """async ([text, lengths]) => {
    const { MarkdownView } = await import("./static/markdown.js");
    const container = document.createElement("div");
    const view = new MarkdownView(container);
    let from = 0;
    for (const length of lengths) {
        view.append(text.slice(from, from + length));
        view.flush();
        from += length;
    }
    view.append(text.slice(from));
    view.finish();
    return container.innerHTML;
}"""

# Without what only serves how it looks: the frames around code and tables, and directions.
PLAIN = """html => {
    const parsed = new DOMParser().parseFromString(html, "text/html");
    for (const node of parsed.querySelectorAll("[dir]")) node.removeAttribute("dir");
    for (const node of parsed.querySelectorAll(".code, .table, .formula")) {
        const inner = node.querySelector("pre, table, math, .math");
        if (!inner.matches("math")) for (const name of inner.getAttributeNames()) inner.removeAttribute(name);
        node.replaceWith(inner);
    }
    return parsed.body.innerHTML;
}"""

TIME = """async ([text, size]) => {
    const { drawMarkdown } = await import("./static/markdown.js");
    const container = document.createElement("div");
    const started = performance.now();
    drawMarkdown(container, text.repeat(Math.ceil(size / text.length)));
    return (performance.now() - started) / 1000;
}"""


@pytest.fixture(scope="module")
def lab(browser: Browser, running_server) -> Page:
    """A page in which the modules can be called."""
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.goto(running_server.url)
    yield page
    context.close()


@pytest.mark.parametrize("name", CASES)
def test_markdown_becomes(lab: Page, name: str) -> None:
    source, expected = CASES[name]
    assert without_numbers(lab.evaluate(PLAIN, lab.evaluate(DRAW, [source, []]))) == expected


def without_numbers(html: str) -> str:
    """Footnotes have another number each time that they are drawn."""
    return re.sub(r"note-\d+", "note", html)


INLINE = (
    "word", " ", " ", "*", "**", "_", "~~", "`", "``", "[", "](", ")", "https://x.org", "![", "<", "&lt;", "\\",
    "\\(", "\\)", "$$", "$", "$x$", "[^1]", "[^", "中文", "：", "😀",
)  # fmt: skip
BLOCKS = (
    "\n", "\n", "\n\n", "```", "```python\n", "~~~", "# ", "#", "- ", "1. ", "2) ", "  ", "    ", "> ", ">", "|",
    "| a | b |\n", "|---|---|\n", "---\n", "\r\n", "\r", "\t",
    "\\[\n", "\n\\]\n", "$$\n", "[^1]: ", "- [x] ", 'x = "y" # z\n', "'''",
)  # fmt: skip


def random_markdown(seed: int, pieces: tuple[str, ...] = INLINE + BLOCKS) -> tuple[str, list[int]]:
    """A text of pieces that mean something, and the lengths in which it arrives."""
    draw = random.Random(seed)
    text = "".join(draw.choices(pieces, k=60))
    return text, [draw.randrange(1, 9) for _ in range(draw.randrange(40))]


def test_text_that_comes_in_pieces_looks_the_same_as_at_once(lab: Page) -> None:
    cases = [random_markdown(seed) for seed in range(200)]
    draw = f"async cases => {{ const draw = {DRAW}; return await Promise.all(cases.map(draw)); }}"
    at_once = map(without_numbers, lab.evaluate(draw, [[text, []] for text, _ in cases]))
    in_pieces = map(without_numbers, lab.evaluate(draw, cases))
    different = [case for case, one, other in zip(cases, at_once, in_pieces, strict=True) if one != other]
    assert different == []


def test_no_word_of_a_text_is_lost(lab: Page) -> None:
    texts = [random_markdown(seed, INLINE)[0] for seed in range(200)]
    shown = lab.evaluate(
        """async texts => {
            const { drawMarkdown } = await import("./static/markdown.js");
            return texts.map((text) => {
                const container = document.createElement("div");
                drawMarkdown(container, text);
                for (const link of container.querySelectorAll("a")) link.append(link.getAttribute("href"));
                return container.textContent;
            });
        }""",
        texts,
    )
    words = ("word", "中文", "😀")
    lost = [text for text, seen in zip(texts, shown, strict=True) if any(seen.count(w) < text.count(w) for w in words)]
    assert lost == []


@pytest.mark.parametrize(
    "piece",
    [
        "*", "_", "**a", "*a **b ", "*a_ ", "a**b", "[", "]", "[]", "[a](", "[a](<", '[a](b "', "[a](b", "![", "`",
        "`a``b", "``` ", ">", "> ", ">\n", "- ", "-\n", "- a\n", "  - a\n", "1. a\n\n", "#", "# a\n", "|", "|a",
        "|a|b|\n|-|-|\n", "|\n|-|\n",
        "\\", "\\(", "$$", "<", "<https://", "https://", "https://a)", "&", "&amp", "~", "~~~\n", "\n", " ", "\t",
        " \n", "-- ", "a ", "a\n", "中", "```\nx\n```\n", "````a\n", "> - ", "*\n", "**a** ",
        "$", "$ ", "$a", "$a$ ", "$$a$$ ", "$$\n", "\\[\n", "\\[a\n", "[^", "[^1] ", "[^1]: a\n", "[^1]: ", "- [x] a\n",
        r"\(\frac", r"\({", r"$\sqrt",
    ],
)  # fmt: skip
def test_a_million_characters_take_linear_time(lab: Page, piece: str) -> None:
    assert lab.evaluate(TIME, [piece, 1_000_000]) < MAX_SECONDS


def test_nested_marks_do_not_nest_nodes_without_end(lab: Page) -> None:
    depth = lab.evaluate(
        """async texts => {
            const { drawMarkdown } = await import("./static/markdown.js");
            const depthOf = (node) => 1 + Math.max(0, ...Array.from(node.children, depthOf));
            return texts.map((text) => {
                const container = document.createElement("div");
                drawMarkdown(container, text);
                return depthOf(container);
            });
        }""",
        [">" * 500 + "a", "- " * 500 + "a", "*a **b " * 500 + "c** d*" * 500, "*" * 999 + "a" + "*" * 999],
    )
    assert max(depth) < 40


def test_a_long_answer_stays_quick_to_the_end(lab: Page) -> None:
    """10,000 tokens, drawn at every fourth: the last thousand must not take much longer than the first."""
    first, last = lab.evaluate(
        """async () => {
            const { MarkdownView } = await import("./static/markdown.js");
            const container = document.createElement("div");
            document.body.append(container);
            const view = new MarkdownView(container);
            const times = [];
            for (let thousand = 0; thousand < 10; thousand += 1) {
                const started = performance.now();
                for (let i = 0; i < 1000; i += 1) {
                    view.append(i % 40 === 39 ? ".\\n\\n" : i % 400 < 120 ? " word" : " **word**");
                    if (i % 4 === 0) view.flush();
                }
                times.push(performance.now() - started);
            }
            view.finish();
            container.remove();
            return [times[0], times[9]];
        }"""
    )
    assert last < 4 * first + 200


def test_a_long_code_grows_without_being_drawn_anew(lab: Page) -> None:
    same = lab.evaluate(
        """async () => {
            const { MarkdownView } = await import("./static/markdown.js");
            const container = document.createElement("div");
            const view = new MarkdownView(container);
            view.append("```python\\nfirst = 1\\nsec");
            view.flush();
            const line = container.querySelector("code").firstChild;
            for (let i = 0; i < 100; i += 1) {
                view.append("ond\\nthird");
                view.flush();
            }
            view.append("\\n```\\n");
            view.finish();
            return container.querySelector("code").firstChild === line;
        }"""
    )
    assert same
