"""Settings: their effect on requests, languages, themes, models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.server.page.browser import expect
from tests.server.page.conversation import ask, messages

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer

from tests.server.page.stub_server import SETTINGS


def open_settings(page: Page) -> None:
    page.click(".sidebar [data-action=settings]")


def close_settings(page: Page) -> None:
    page.press("#settings", "Escape")


def sent_settings(body: dict) -> dict:
    return {name: value for name, value in body.items() if name in SETTINGS}


def test_what_is_filled_in_is_sent_and_survives_a_reload(page: Page, server: StubServer) -> None:
    wanted = {
        "temperature": 0.7, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1, "max_tokens": 64, "seed": 12345,
    }  # fmt: skip
    open_settings(page)
    for name, value in wanted.items():
        page.fill(f"#sampling-{name}", str(value))
    page.reload()
    ask(page, "Hello")
    assert sent_settings(server.bodies[0]) == wanted


def test_what_is_out_of_bounds_is_told_and_not_sent(page: Page, server: StubServer) -> None:
    open_settings(page)
    for name, value in {"temperature": "warm", "top_p": "1.5", "top_k": "2.5", "max_tokens": "-1"}.items():
        page.fill(f"#sampling-{name}", value)
        expect(page.locator(f"#sampling-{name}")).to_have_attribute("aria-invalid", "true")
        expect(page.locator(f"#sampling-{name}-problem")).to_contain_text("number from")
    close_settings(page)
    ask(page, "Hello")
    assert sent_settings(server.bodies[0]) == {}


def test_greedy_is_temperature_0(page: Page, server: StubServer) -> None:
    open_settings(page)
    page.fill("#sampling-temperature", "0.9")
    page.fill("#sampling-max_tokens", "8")
    page.check("#greedy")
    expect(page.locator("#sampling-temperature")).to_be_disabled()
    close_settings(page)
    ask(page, "Hello")
    assert sent_settings(server.bodies[0]) == {"temperature": 0, "max_tokens": 8}


def test_all_defaults_empties_every_field(page: Page, server: StubServer) -> None:
    open_settings(page)
    page.fill("#sampling-seed", "3")
    page.check("#greedy")
    page.click("#reset-sampling")
    close_settings(page)
    ask(page, "Hello")
    assert sent_settings(server.bodies[0]) == {}


def test_the_system_prompt_belongs_to_its_conversation(page: Page, server: StubServer) -> None:
    open_settings(page)
    page.fill("#system", "Answer in verse.")
    close_settings(page)
    ask(page, "Hello")
    expect(page.locator(".system")).to_contain_text("Answer in verse.")
    page.click(".new")
    ask(page, "Hello")
    assert messages(server.bodies[0]) == [("system", "Answer in verse."), ("user", "Hello")]
    assert messages(server.bodies[1]) == [("user", "Hello")]
    page.reload()
    page.locator(".conversations .open").nth(1).click()
    expect(page.locator(".system")).to_contain_text("Answer in verse.")


@pytest.mark.parametrize(("locale", "lang", "words"), [("zh-CN", "zh-CN", "发送"), ("fr-FR", "en", "Send")])
def test_the_language_is_the_browsers(visit, locale: str, lang: str, words: str) -> None:
    page = visit(locale=locale)
    expect(page.locator("html")).to_have_attribute("lang", lang)
    expect(page.locator("#send")).to_have_attribute("aria-label", words)


def test_the_language_is_switched_everywhere_and_stays(page: Page) -> None:
    ask(page, "Hello")
    page.click("#switch-language")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator(".new")).to_have_text("新对话")
    expect(page.locator(".figures")).to_contain_text("个 token")
    expect(page.locator(".said")).to_have_text("Hello")
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    open_settings(page)
    page.check("#language input[value=en]", force=True)
    expect(page.locator("#settings-title")).to_have_text("Settings")


def background(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def test_the_colours_are_the_systems_until_they_are_switched(visit) -> None:
    page = visit(color_scheme="dark")
    dark = background(page)
    page.emulate_media(color_scheme="light")
    light = background(page)
    assert light != dark
    page.click("#switch-theme")
    assert background(page) == dark
    page.reload()
    assert background(page) == dark
    open_settings(page)
    page.check("#theme input[value='']", force=True)
    assert background(page) == light


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, of `rgb(r, g, b)`."""
    channels = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


PAIRS = [
    (text, ground)
    for text in ("ink", "ink-soft", "ink-faint", "accent", "danger")
    for ground in ("paper", "raised", "sunken", "accent-soft", "danger-soft")
    if (text in ("ink", "ink-soft") or not ground.endswith("-soft")) or text == ground.removesuffix("-soft")
] + [("on-accent", "accent"), ("code-comment", "sunken"), ("code-string", "sunken"), ("code-keyword", "sunken")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(visit, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    names = sorted({name for pair in PAIRS for name in pair})
    colours = page.evaluate(
        """names => names.map((name) => {
            const probe = document.createElement("i");
            probe.style.color = `var(--${name})`;
            document.body.append(probe);
            return getComputedStyle(probe).color;
        })""",
        names,
    )
    luminances = dict(zip(names, map(luminance, colours), strict=True))
    faint = {}
    for pair in PAIRS:
        first, second = sorted(luminances[name] for name in pair)
        contrast = (second + 0.05) / (first + 0.05)
        if contrast < 4.5:  # WCAG 2, level AA
            faint[pair] = round(contrast, 2)
    assert faint == {}


def test_one_model_is_named_and_several_can_be_chosen_from(page: Page, server: StubServer) -> None:
    expect(page.locator("#model-name")).to_have_text("qwen-demo")
    expect(page.locator("#model")).to_be_hidden()
    server.models = [server.model("base", is_chat=False), server.model("one"), server.model("two", 32768)]
    page.reload()
    expect(page.locator("#model")).to_have_value("one")
    expect(page.locator("#model option[value=base]")).to_be_disabled()
    page.select_option("#model", "two")
    ask(page, "Hello")
    assert server.bodies[0]["model"] == "two"
    expect(page.locator("#context-text")).to_have_text("22 of 32,768 tokens")
    page.reload()
    expect(page.locator("#model")).to_have_value("two")


def test_a_base_model_is_told(page: Page, server: StubServer) -> None:
    server.models = [server.model("base", is_chat=False)]
    page.reload()
    expect(page.locator(".notice")).to_contain_text("base is a base model")
    open_settings(page)
    expect(page.locator("#version")).to_have_text("Qwartet 0.0.test")
