"""LaTeX to MathML in the browser: what models write is typeset, and anything else is shown as source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.server.page.stub_server import StubServer

TYPESET = """async ([source, isBlock]) => {
    const { typeset } = await import("./static/math.js");
    return typeset(source, isBlock)?.firstChild.innerHTML ?? null;
}"""

CASES = {
    "a": "<mi>a</mi>",
    "2.5x": "<mn>2.5</mn><mi>x</mi>",
    "a-b": "<mi>a</mi><mo>−</mo><mi>b</mi>",
    "a=-b": '<mi>a</mi><mo>=</mo><mo form="prefix">−</mo><mi>b</mi>',
    "x^2": "<msup><mi>x</mi><mn>2</mn></msup>",
    "x^23": "<msup><mi>x</mi><mn>23</mn></msup>",
    "x_{i j}^2": "<msubsup><mi>x</mi><mrow><mi>i</mi><mi>j</mi></mrow><mn>2</mn></msubsup>",
    "f''": "<msup><mi>f</mi><mo>′′</mo></msup>",
    r"\frac12": None,  # TeX takes one digit for each; a number is one sign here, so that there is nothing below
    r"\frac{1}{2}": "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>",
    r"\sqrt{x}": "<msqrt><mrow><mi>x</mi></mrow></msqrt>",
    r"\sqrt[3]{x}": "<mroot><mrow><mi>x</mi></mrow><mn>3</mn></mroot>",
    r"\alpha \le \Omega": '<mi>α</mi><mo stretchy="false">≤</mo><mi>Ω</mi>',
    r"\sin x": "<mi>sin</mi><mi>x</mi>",
    r"\text{if } x": "<mtext>if&nbsp;</mtext><mi>x</mi>",
    r"\mathbb{R}^n": "<msup><mi>ℝ</mi><mi>n</mi></msup>",
    r"\mathbf{v}": '<mrow class="bold"><mrow><mi>v</mi></mrow></mrow>',
    r"\vec{v}": '<mover accent="true"><mrow><mi>v</mi></mrow><mo>→</mo></mover>',
    r"\left( x \right]": (
        '<mrow><mo fence="true" stretchy="true">(</mo><mi>x</mi><mo fence="true" stretchy="true">]</mo></mrow>'
    ),
    r"50\%": '<mn>50</mn><mo stretchy="false">%</mo>',
    "速度 v": "<mtext>速</mtext><mtext>度</mtext><mi>v</mi>",
}
KNOWN = [
    r"x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}",
    r"\sum_{i=1}^{n} i = \frac{n(n+1)}{2}",
    r"\int_0^\infty e^{-x^2} \, dx = \frac{\sqrt{\pi}}{2}",
    r"\lim_{x \to 0} \frac{\sin x}{x} = 1",
    r"f(x) = \begin{cases} x^2 & \text{if } x \geq 0 \\ -x & \text{otherwise} \end{cases}",
    r"A = \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}, \quad \det(A) = -2",
    r"\begin{aligned} a &= b + c \\ &= d \end{aligned}",
    r"\left\{ \begin{array}{ll} a & b \\ c & d \end{array} \right.",
    r"P(A \mid B) = \frac{P(B \mid A)\,P(A)}{P(B)}",
    r"\nabla \times \mathbf{E} = -\frac{\partial \mathbf{B}}{\partial t}",
    r"\operatorname{softmax}(z)_i = \frac{e^{z_i}}{\sum_{j} e^{z_j}}",
    r"\operatorname*{argmax}_\theta \; \mathcal{L}(\theta)",
    r"\|x\|_2 = \sqrt{\sum_k |x_k|^2}",
    r"a \equiv b \pmod{n} \implies n \mid (a-b)",
    r"\overline{AB} \parallel \overline{CD}, \angle ABC = 90^\circ",
    r"\underbrace{a + \cdots + a}_{n \text{ times}}",
    r"\boxed{x = 5} \tag{1}",
    r"\bigl( \tfrac{1}{2} \bigr)^2 \approx 0.25",
    r"a &= b \\ c &= d",
    r"\{x \in \mathbb{N} : x < 10\} \neq \varnothing",
    r"H_2O + CO_2 \xrightarrow{\text{light}} O_2",
]
NOT_KNOWN = [
    r"\foo", r"\href{javascript:alert(1)}{x}", r"\def\a{\a\a}\a", r"\frac{1}", r"\frac", "{", "}", "a}", "{a",
    r"\left( a",
    r"\right)", r"\left\foo a \right)", r"\begin{foo}a\end{foo}", r"\begin{matrix}a", r"\begin{matrix}a\end{cases}",
    r"\end{matrix}", "x_1_2", "x^", "_", r"\sqrt[3", r"\text{a", "{a & b}", "", " ", "\\", "{" * 100 + "a" + "}" * 100,
    r"\sqrt" * 3000 + "a", "x^{" * 1000 + "}" * 1000, "a" * 20_001,
]  # fmt: skip


@pytest.fixture(scope="module")
def lab(browser: Browser, running_server: StubServer) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(running_server.url)
    yield page
    page.close()


@pytest.mark.parametrize("source", CASES)
def test_latex_becomes(lab: Page, source: str) -> None:
    assert lab.evaluate(TYPESET, [source, False]) == CASES[source]


def test_limits_stand_above_and_below_in_a_formula_of_its_own_alone(lab: Page) -> None:
    for source in (r"\sum_i^n", r"\lim_i^n", r"\underbrace{a}_i^n"):
        assert lab.evaluate(TYPESET, [source, True]).startswith("<munderover>")
        assert lab.evaluate(TYPESET, [source, False]).startswith("<msubsup>")
    assert lab.evaluate(TYPESET, [r"\int_i^n", True]).startswith("<msubsup>")


@pytest.mark.parametrize("source", KNOWN)
def test_what_models_write_is_known(lab: Page, source: str) -> None:
    assert lab.evaluate(TYPESET, [source, True])


@pytest.mark.parametrize("source", NOT_KNOWN, ids=lambda source: source[:20])
def test_what_is_not_known_is_not_typeset(lab: Page, source: str) -> None:
    assert lab.evaluate(TYPESET, [source, True]) is None
