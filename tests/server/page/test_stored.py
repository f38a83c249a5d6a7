"""Arbitrary content in the browser's storage: shown where possible, reported where not, never deleted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.page.browser import expect
from tests.server.page.conversation import answer, ask, messages

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer

LIST = ".conversations .open"
QUESTION = {"role": "user", "content": "q"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "x", "model": "m", "finish": "stop", "figures": {}}
OLD: dict[str, Any] = {"title": "old", "isNamed": False, "created": 1, "updated": 2, "system": ""}
NAME = "qwartet.conversation.abc"


def first_version(*turns: Any, **fields: Any) -> dict[str, str]:
    """A conversation as the page's first version kept it: in one entry."""
    return {NAME: json.dumps({**OLD, "turns": list(turns), **fields})}


def with_answer(**fields: Any) -> dict[str, str]:
    return first_version(QUESTION, {**ANSWER, **fields})


def in_entries(fields: Any, **turns: Any) -> dict[str, str]:
    """A conversation as it is kept now: an entry for each turn."""
    own = {} if fields is None else {NAME: json.dumps(fields)}
    return {**own, **{f"{NAME}/{name}": json.dumps(turn) for name, turn in turns.items()}}


def below(parent: str, turn: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**turn, "parent": parent, "created": 5, **fields}


NOW = {"version": 2, **OLD}
SHOWN = {
    "sound": with_answer(),
    "figures null": with_answer(figures=None),
    "figures a text": with_answer(figures="fast"),
    "figures of texts": with_answer(figures={"totalTokens": "x", "tokensPerS": {}, "firstTokenS": -1}),
    "figures endless": {NAME: with_answer(figures={"totalTokens": 17})[NAME].replace("17", "1e999")},
    "no figures": first_version(QUESTION, {"role": "assistant", "content": "x"}),
    "failed without a failure": with_answer(finish="failed"),
    "failure null": with_answer(finish="failed", failure=None),
    "failure a text": with_answer(finish="failed", failure="cut"),
    "kind constructor": with_answer(finish="failed", failure={"kind": "constructor"}),
    "kind __proto__": with_answer(finish="failed", failure={"kind": "__proto__"}),
    "kind 5": with_answer(finish="failed", failure={"kind": 5, "detail": [1]}),
    "kind unknown": with_answer(finish="failed", failure={"kind": "meltdown", "retryAt": "soon"}),
    "finish unknown": with_answer(finish="paused"),
    "finish an object": with_answer(finish={}),
    "finish null": with_answer(finish=None),
    "model an object": with_answer(model={"name": "m"}),
    "title missing": {NAME: json.dumps({"turns": [QUESTION, ANSWER]})},
    "title an object": first_version(QUESTION, ANSWER, title={"a": 1}),
    "title huge": first_version(QUESTION, ANSWER, title="t" * 100_000),
    "system null": first_version(QUESTION, ANSWER, system=None),
    "dates wrong": first_version(QUESTION, ANSWER, created="yesterday", updated={"at": 1}),
    "dates beyond": first_version(QUESTION, ANSWER, created=1e300, updated=-1e300),
    "unknown fields": first_version({**QUESTION, "mood": "glad"}, {**ANSWER, "audio": []}, folder="work"),
    "of a newer version": in_entries(
        {**NOW, "version": 7, "folder": {}}, a=below("", {**QUESTION, "kind": 3}), b=below("a", ANSWER)
    ),
    "chosen wrong": in_entries({**NOW, "chosen": ["a"]}, a=below("", QUESTION), b=below("a", ANSWER)),
    "chosen what is not there": in_entries(
        {**NOW, "chosen": {"": "z", "a": 5, "__proto__": "b"}}, a=below("", QUESTION), b=below("a", ANSWER)
    ),
    "sent from nowhere": in_entries({**NOW, "sentFrom": "z"}, a=below("", QUESTION), b=below("a", ANSWER)),
    "without its own entry": in_entries(None, a=below("", QUESTION), b=below("a", ANSWER)),
    "a parent that is missing": in_entries(NOW, b=below("a", ANSWER)),
    "a circle": in_entries(NOW, a=below("b", QUESTION), b=below("a", ANSWER)),
    "its own parent": in_entries(NOW, a=below("a", QUESTION)),
    "ids of objects' own names": in_entries(
        NOW, constructor=below("", QUESTION), __proto__=below("constructor", ANSWER)
    ),
    "attachments wrong": in_entries(
        NOW, a=below("", QUESTION, attachments=[None, {"name": 3}, {"name": "n", "text": "t"}])
    ),
    "attachments a text": in_entries(NOW, a=below("", QUESTION, attachments="file")),
    "an answer first": first_version(ANSWER, ANSWER),
    "many turns": first_version(*[QUESTION, ANSWER] * 2000),
    "a huge message": first_version({**QUESTION, "content": "word " * 200_000}, ANSWER),
    "a huge answer": first_version(QUESTION, {**ANSWER, "content": "**word** " * 100_000}),
}
PARTLY = {
    "a turn null": first_version(QUESTION, None, ANSWER),
    "a role unknown": first_version(QUESTION, {"role": "narrator", "content": "n"}, ANSWER),
    "a content that is no text": first_version(QUESTION, {**ANSWER, "content": [{"type": "text"}]}),
    "a turn's entry that is no object": {**in_entries(NOW, a=below("", QUESTION)), f"{NAME}/b": "[]"},
    "a turn's entry that is broken": {**in_entries(NOW, a=below("", QUESTION)), f"{NAME}/b": "{"},
    "its own entry broken": {**in_entries(None, a=below("", QUESTION)), NAME: "{"},
}
NOT_SHOWN = {
    "empty": {NAME: ""},
    "no JSON": {NAME: "{"},
    "null": {NAME: "null"},
    "a list": {NAME: "[]"},
    "a number": {NAME: "3"},
    "turns a number": {NAME: '{"turns": 3}'},
    "turns of nothing": {NAME: '{"title": "x", "system": "", "turns": [null, 3, "a"]}'},
    "no turns": {NAME: json.dumps(OLD)},
    "a name with slashes": {f"{NAME}/x/y": "{}"},
    "no name": {"qwartet.conversation.": "7"},
}


def come_back_to(page: Page, entries: dict[str, str]) -> None:
    """Loads the page with one sound conversation, and these entries beside it."""
    ask(page, "Sound")
    page.evaluate(
        "entries => Object.entries(entries).forEach(([name, text]) => localStorage.setItem(name, text))", entries
    )
    page.reload()
    expect(page.locator(f"{LIST} >> text=Sound")).to_be_visible()


def kept(page: Page, entries: dict[str, str]) -> dict[str, str]:
    names = list(entries)
    return page.evaluate("names => Object.fromEntries(names.map((name) => [name, localStorage.getItem(name)]))", names)


@pytest.mark.parametrize("name", SHOWN)
def test_what_can_be_shown_is_shown(page: Page, name: str) -> None:
    come_back_to(page, SHOWN[name])
    expect(page.locator(LIST)).to_have_count(2)
    expect(page.locator(".notice")).to_have_count(0)
    page.locator(LIST).last.click()
    expect(page.locator(".turn").last).to_be_visible()
    page.click("#switch-language")  # everything is drawn anew
    expect(page.locator(".turn").last).to_be_visible()
    assert kept(page, SHOWN[name]) == SHOWN[name]


@pytest.mark.parametrize("name", PARTLY)
def test_what_cannot_be_shown_is_told_beside_what_can(page: Page, name: str) -> None:
    come_back_to(page, PARTLY[name])
    expect(page.locator(LIST)).to_have_count(2)
    expect(page.locator(".notice")).to_contain_text("One stored entry could not be read; it was left unchanged.")
    page.locator(LIST).last.click()
    expect(page.locator(".turn").first).to_contain_text("q")
    ask_below = page.locator(".turn").count() + 2
    page.fill("#message", "More")
    page.press("#message", "Enter")
    expect(page.locator(".turn")).to_have_count(ask_below)
    expect(page.locator(".making")).to_have_count(0)
    page.reload()
    expect(page.locator(".turn")).to_have_count(ask_below)
    stored = kept(page, PARTLY[name])
    turns = {entry: text for entry, text in PARTLY[name].items() if entry != NAME}
    assert turns.items() <= stored.items()
    if name.startswith("a turn null"):
        assert json.loads(stored[NAME])["turns"] == [QUESTION, None, ANSWER], "what cannot be shown stays"


@pytest.mark.parametrize("name", NOT_SHOWN)
def test_an_entry_of_which_nothing_can_be_shown_is_told_and_stays(page: Page, name: str) -> None:
    come_back_to(page, NOT_SHOWN[name])
    expect(page.locator(LIST)).to_have_text("Sound")
    expect(page.locator(".notice")).to_contain_text("could not be read")
    with page.expect_download() as download:
        page.click(".notice >> text=Save as a file")
    assert json.loads(download.value.path().read_text(encoding="utf-8")) == NOT_SHOWN[name]
    ask(page, "Another")
    assert kept(page, NOT_SHOWN[name]) == NOT_SHOWN[name]


PREFERENCES = [
    "{", "null", "[]", "3", '"text"', '{"opened": 5}', '{"opened": "constructor"}', '{"language": 5}', '{"theme": []}',
    '{"language": "constructor", "theme": "constructor", "model": {}, "sampling": "x"}', '{"sampling": {"top_p": {}}}',
]  # fmt: skip


@pytest.mark.parametrize("text", PREFERENCES)
def test_preferences_of_any_shape_are_passed_over(page: Page, text: str) -> None:
    come_back_to(page, {"qwartet.preferences": text})
    expect(page.locator("html")).to_have_attribute("lang", "en")
    assert ask(page, "Again") == "Hello there."


DRAFTS = [
    "{",
    "null",
    "3",
    '{"text": 5}',
    '{"text": "kept", "attachments": "x"}',
    '{"text": "kept", "attachments": [3]}',
]


@pytest.mark.parametrize("text", DRAFTS)
def test_drafts_of_any_shape_are_passed_over(page: Page, text: str) -> None:
    page.evaluate("text => sessionStorage.setItem('qwartet.draft.new', text)", text)
    page.reload()
    expect(page.locator("#message")).to_have_value("kept" if "kept" in text else "")
    assert ask(page, "Hello") == "Hello there."


def test_a_conversation_of_the_first_version_goes_on(page: Page, server: StubServer) -> None:
    come_back_to(page, first_version(QUESTION, ANSWER, folder="work"))
    page.click(f"{LIST} >> text=old")
    ask(page, "And?")
    assert messages(server.bodies[-1]) == [("user", "q"), ("assistant", "x"), ("user", "And?")]
    page.reload()
    expect(page.locator(".said")).to_have_text(["q", "And?"])
    expect(answer(page)).to_have_text("Hello there.")
    entry = json.loads(kept(page, {NAME: ""})[NAME])
    assert (entry["folder"], entry["turns"]) == ("work", [QUESTION, ANSWER]), "a page of that version still reads it"


def test_what_a_tab_of_the_first_version_writes_is_shown(page: Page, server: StubServer) -> None:
    come_back_to(page, first_version(QUESTION, ANSWER))
    page.click(f"{LIST} >> text=old")
    other = page.context.new_page()
    other.goto(f"{server.url}/static/mark.svg")
    for words, finish in (("Half", None), ("Half and half", "stop")):
        last = {**ANSWER, "content": words, "finish": finish}
        turns = first_version(QUESTION, ANSWER, {**QUESTION, "content": "from last week"}, last)
        other.evaluate("([name, text]) => localStorage.setItem(name, text)", [NAME, turns[NAME]])
        expect(page.locator(".said")).to_have_text(["q", "from last week"])
        expect(answer(page)).to_have_text(words)
    expect(page.locator(".failure")).to_have_count(0)
    other.close()
