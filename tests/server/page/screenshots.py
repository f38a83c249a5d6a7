"""Screenshots of the page with scripted answers: `python -m tests.server.page.screenshots FOLDER [NAME ...]`.

Those of docs/images are made so too; the model is called "scripted-example" in them, because it is none.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.server.page.browser import launched
from tests.server.page.stub_server import Answer, StubServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "is_mobile": True, "has_touch": True}

VIOLIN = """\
Both instruments play the same **fundamental**, but a tone is never only one frequency. What differs is the mixture \
of *overtones* above it, and how the tone begins.

| | violin | flute |
|---|---|---|
| sets the air moving | bowed string and its wooden body | air over an edge |
| overtones | many, up to high frequencies | few |
| beginning | noisy, 50 to 200 ms | soft, with some breath |

Three things make the difference:

1. **The source.** A bow pulls the string and lets it slip, again and again. The result is close to a *sawtooth*, \
which holds every overtone.
2. **The body.** Wood and enclosed air strengthen some overtones and weaken others.
3. **The beginning.** Cut off the first tenth of a second, and people often cannot tell the two apart.

> The overtones of a sawtooth fall with their number: the *n*-th has `1/n` of the first one's strength.

In code, a tone is a sum of sines:

```python
import numpy as np

def tone(frequency: float, strengths: list[float], seconds: float = 1.0, rate: int = 44_100):
    \"\"\"A tone with the given strengths of its overtones, the fundamental first.\"\"\"
    time = np.arange(int(seconds * rate)) / rate
    waves = [a * np.sin(2 * np.pi * n * frequency * time) for n, a in enumerate(strengths, 1)]
    return sum(waves) / sum(strengths)

violin = tone(440, [1 / n for n in range(1, 20)])   # like a sawtooth
flute = tone(440, [1, 0.3, 0.1])                    # nearly one sine
```
"""
PALINDROME = """\
Around each centre the palindrome is widened as far as it goes. That takes `O(n²)` steps and no extra memory.

```python
def longest_palindrome(text: str) -> str:
    \"\"\"The longest part of the text that reads the same in both directions; the first one of several.\"\"\"
    best = ""
    for centre in range(len(text)):
        for right in (centre, centre + 1):      # odd and even lengths
            left = centre
            while left >= 0 and right < len(text) and text[left] == text[right]:
                left, right = left - 1, right + 1
            if right - left - 1 > len(best):
                best = text[left + 1 : right]
    return best

assert longest_palindrome("a violin, level") == "level"
```

- For texts of many thousand characters there is **Manacher's algorithm**, which needs `O(n)` steps.
- An empty text gives an empty palindrome.
"""
FORMULAS = r"""The roots of a quadratic equation follow from completing the square[^1]:

$$
x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}
$$

For a sum, \(\sum_{i=1}^{n} i = \frac{n(n+1)}{2}\), and a matrix is written

\[ A = \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}, \qquad f(x) = \begin{cases} x^2 & \text{if } x \ge 0 \\ -x & \text{otherwise} \end{cases} \]

- [x] derive the formula
- [ ] check it with $a = 1$, $b = -3$, $c = 2$

[^1]: The method is older than the notation: it was first described in words.
"""  # noqa: E501
PROVERB = "A journey of a thousand miles begins with a single step."
CHINESE = """\
两种乐器演奏的是同一个**基频**，但任何乐音都不只有一个频率。区别在于基频之上的*泛音*如何混合，以及声音如何开始。

| | 小提琴 | 长笛 |
|---|---|---|
| 发声方式 | 弓擦弦，木质琴身共鸣 | 气流吹过边棱 |
| 泛音 | 丰富，延伸到高频 | 较少 |

1. **声源：**弓不断拉动琴弦又让它滑脱，波形接近锯齿波，包含所有泛音。
2. **琴身：**木板和空腔会加强一些泛音，减弱另一些。
3. **起音：**去掉最初的十分之一秒，人们往往分不清二者。

> 锯齿波第 *n* 个泛音的强度是基频的 `1/n`。
"""


def new_page(browser: Browser, server: StubServer, **settings: Any) -> Page:
    """The page, loaded, in a browser that knows nothing of it yet."""
    server.models = [StubServer.model("scripted-example", 8192)]
    page = browser.new_context(**settings).new_page()
    page.goto(server.url)
    page.wait_for_selector("#model-name:not(:empty)")
    return page


def say(page: Page, server: StubServer, text: str, *answers: Answer) -> None:
    """Sends a message and waits until its answer is complete."""
    server.answers.extend(answers)
    page.fill("#message", text)
    page.click("#send")
    page.wait_for_selector(".answer:last-child .foot .actions", state="attached")


def spoken(text: str) -> Answer:
    """An answer of some plausible length, in tokens of about four characters."""
    pieces = [text[i : i + 4] for i in range(0, len(text), 4)]
    return Answer(pieces, usage=(412, len(pieces)))


def talk(page: Page, server: StubServer) -> None:
    say(page, server, "Draft a short invitation to a quartet evening", spoken("With pleasure."))
    page.click(".sidebar [data-action=new]", force=True)
    say(page, server, "翻译成英文：千里之行，始于足下。", spoken(PROVERB))
    page.click(".sidebar [data-action=new]", force=True)


def desktop_light(browser: Browser, server: StubServer, **settings: Any) -> Page:
    page = new_page(browser, server, **{**DESKTOP, **settings})
    talk(page, server)
    say(page, server, "Why does a violin sound different from a flute when both play the same note?", spoken(VIOLIN))
    page.evaluate("document.getElementById('scroll').scrollTop = 0")
    page.mouse.move(640, 400)
    return page


def desktop_dark(browser: Browser, server: StubServer) -> Page:
    return desktop_light(browser, server, color_scheme="dark")


def code(browser: Browser, server: StubServer) -> Page:
    page = new_page(browser, server, **DESKTOP)
    say(page, server, "Write a Python function that finds the longest palindrome in a text.", spoken(PALINDROME))
    return page


def chinese(browser: Browser, server: StubServer) -> Page:
    page = new_page(browser, server, **DESKTOP, locale="zh-CN")
    talk(page, server)
    say(page, server, "为什么小提琴和长笛演奏同一个音，听起来却不一样？", spoken(CHINESE))
    return page


def formulas(browser: Browser, server: StubServer) -> Page:
    page = new_page(browser, server, **DESKTOP)
    say(page, server, "How are quadratic equations solved?", spoken(FORMULAS))
    page.click(".answer [data-action=regenerate]")
    page.wait_for_selector(".answer:not(.making) .foot .actions", state="attached")
    page.click(".versions [data-action=earlier]")
    return page


def composing(browser: Browser, server: StubServer, **settings: Any) -> Page:
    page = new_page(browser, server, **{**DESKTOP, **settings})
    full = Answer(["It holds the **minutes** of three meetings."], finish="length", usage=(7900, 120))
    notes = [{"name": "minutes.txt", "mimeType": "text/plain", "buffer": b"Monday\nTuesday\n"}]
    page.set_input_files("#files", notes)
    say(page, server, "What is in this file?", full)
    page.set_input_files("#files", [{**notes[0], "name": "a long name of a file with notes.md"}])
    page.fill("#message", "And in this one?")
    return page


def phone_composing(browser: Browser, server: StubServer) -> Page:
    return composing(browser, server, **PHONE, color_scheme="dark", locale="zh-CN")


def shortcuts(browser: Browser, server: StubServer) -> Page:
    page = new_page(browser, server, **DESKTOP)
    page.focus("#search")
    page.fill("#search", "quartet")
    page.focus("#options")
    page.click(".keys button")
    return page


def settings(browser: Browser, server: StubServer) -> Page:
    page = desktop_light(browser, server)
    page.click(".sidebar [data-action=settings]")
    page.fill("#system", "Answer like a patient teacher of physics.")
    page.fill("#sampling-temperature", "0.7")
    page.fill("#sampling-top_p", "3")
    return page


def settings_end(browser: Browser, server: StubServer) -> Page:
    page = settings(browser, server)
    page.locator("#version").scroll_into_view_if_needed()
    return page


def failure(browser: Browser, server: StubServer) -> Page:
    page = new_page(browser, server, **DESKTOP)
    cut = Answer(["Both instruments play the same **fundamental**, but a tone is never only"], is_cut=True)
    say(page, server, "Why does a violin sound different from a flute?", cut)
    return page


def busy(browser: Browser, server: StubServer) -> Page:
    page = new_page(browser, server, **DESKTOP, color_scheme="dark")
    error = {"message": "64 requests are waiting already", "code": "queue_full"}
    say(page, server, "Hello?", Answer(status=429, headers={"Retry-After": "30"}, error=error))
    return page


def key(browser: Browser, server: StubServer) -> Page:
    page = new_page(browser, server, **DESKTOP)
    server.key = "secret"
    say(page, server, "Hello?")
    server.key = None
    page.wait_for_selector("#key[open]")
    return page


def welcome(browser: Browser, server: StubServer) -> Page:
    return new_page(browser, server, **DESKTOP)


def phone_welcome(browser: Browser, server: StubServer) -> Page:
    return new_page(browser, server, **PHONE)


def phone_dark(browser: Browser, server: StubServer) -> Page:
    page = new_page(browser, server, **PHONE, color_scheme="dark")
    say(page, server, "Write a Python function that finds the longest palindrome in a text.", spoken(PALINDROME))
    page.evaluate("document.getElementById('scroll').scrollTop = 0")
    return page


def phone_sidebar(browser: Browser, server: StubServer) -> Page:
    page = new_page(browser, server, **PHONE)
    say(page, server, "Draft a short invitation to a quartet evening", spoken("With pleasure."))
    page.click("#open-sidebar")
    page.wait_for_timeout(300)
    return page


PICTURES: tuple[Callable[..., Any], ...] = (
    desktop_light, desktop_dark, code, chinese, formulas, composing, phone_composing, shortcuts, settings, settings_end,
    failure, busy, key, welcome,
    phone_welcome, phone_dark, phone_sidebar,
)  # fmt: skip


def main(folder: str, *names: str) -> None:
    """Makes the pictures of these names, or all."""
    server = StubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Path(folder).mkdir(parents=True, exist_ok=True)
    with launched() as browser:
        for picture in PICTURES:
            if not names or picture.__name__ in names:
                page = picture(browser, server)
                page.wait_for_timeout(400)  # animations
                page.screenshot(path=Path(folder, f"{picture.__name__}.png"))
                page.context.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
