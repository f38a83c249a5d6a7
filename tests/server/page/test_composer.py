"""Writing a message: drafts, attached files, long pastes, keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.server.page.browser import expect
from tests.server.page.conversation import ask, messages, send

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.server.page.stub_server import StubServer

LIST = ".conversations .open"
PASTE = """text => {
    const data = new DataTransfer();
    data.setData("text/plain", text);
    const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
    document.querySelector("#message").dispatchEvent(event);
    return event.defaultPrevented;
}"""
DROP = """([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, { type: "text/plain" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def attach(page: Page, name: str, data: bytes) -> None:
    page.set_input_files("#files", [{"name": name, "mimeType": "application/octet-stream", "buffer": data}])


def test_each_conversation_keeps_its_draft(page: Page) -> None:
    ask(page, "First")
    page.fill("#message", "draft of the first")
    page.click(".new")
    expect(page.locator("#message")).to_have_value("")
    page.fill("#message", "draft of a new one")
    page.click(f"{LIST} >> text=First")
    expect(page.locator("#message")).to_have_value("draft of the first")
    page.reload()
    expect(page.locator("#message")).to_have_value("draft of the first")
    page.click(".new")
    expect(page.locator("#message")).to_have_value("draft of a new one")
    ask(page, "Sent instead")
    page.click(".new")
    expect(page.locator("#message")).to_have_value("")


def test_a_draft_outlives_its_tab(page: Page, server: StubServer) -> None:
    page.fill("#message", "to be continued")
    later = page.context.new_page()
    later.goto(server.url)
    expect(later.locator("#message")).to_have_value("to be continued")
    later.close()


def test_attached_files_are_sent_in_fences_under_their_names(page: Page, server: StubServer) -> None:
    attach(page, "notes.md", b"# Notes\r\n```\ncode\n```")
    attach(page, "list.txt", "春\n夏\n".encode())
    expect(page.locator("#attached summary")).to_have_text(["notes.md4 lines", "list.txt2 lines"])
    ask(page, "Compare")
    sent = "Compare\n\nnotes.md:\n````\n# Notes\n```\ncode\n```\n````\n\nlist.txt:\n```\n春\n夏\n```"
    assert messages(server.bodies[0]) == [("user", sent)]
    expect(page.locator("#attached li")).to_have_count(0)
    expect(page.locator(".said")).to_have_text("Compare")
    page.reload()
    page.click(".user summary >> text=list.txt")
    expect(page.locator(".user pre").nth(1)).to_have_text("春\n夏\n")
    page.locator(".user").hover()
    page.click(".user [data-action=edit]")
    page.fill(".editor textarea", "Compare again")
    page.click("[data-action=send-edited]")
    expect(page.locator(".making")).to_have_count(0)
    assert messages(server.bodies[1])[-1] == ("user", sent.replace("Compare", "Compare again"))


def test_files_alone_are_a_message_and_can_be_removed_before(page: Page, server: StubServer) -> None:
    attach(page, "a.txt", b"a")
    page.evaluate(DROP, ["b.txt", "b"])
    page.click("#attached [aria-label='Remove a.txt']")
    page.reload()
    expect(page.locator("#attached summary")).to_have_text("b.txt1 line")
    page.press("#message", "Enter")
    expect(page.locator("#title")).to_have_text("b.txt")
    assert messages(server.bodies[0]) == [("user", "b.txt:\n```\nb\n```")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("utf-16.txt", "春天".encode("utf-16")),
        ("gbk.txt", "春天".encode("gb18030")),
        ("bom.txt", "春天".encode("utf-8-sig")),
    ],
)
def test_files_in_other_encodings_are_read(page: Page, server: StubServer, name: str, data: bytes) -> None:
    attach(page, name, data)
    ask(page, "Read")
    assert "\n春天\n" in messages(server.bodies[0])[0][1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG\0\0", "odd.bin is not a text file."),
        (b"\xff\xff\xff", "odd.bin is not a text file."),
        (b" \n", "odd.bin is empty."),
        (b"a" * 1_000_001, "odd.bin is larger than 1 MB."),
    ],
    ids=["zeros", "no encoding", "blank", "too large"],
)
def test_what_cannot_be_attached_is_told(page: Page, data: bytes, words: str) -> None:
    attach(page, "odd.bin", data)
    expect(page.locator(".toast span").first).to_have_text(words)
    expect(page.locator("#attached li")).to_have_count(0)


def test_a_long_paste_is_folded_and_can_be_put_into_the_message(page: Page, server: StubServer) -> None:
    text = "\n".join(f"line {i}" for i in range(40))
    page.fill("#message", "See: ")
    assert page.evaluate(PASTE, text)
    expect(page.locator("#message")).to_have_value("See: ")
    expect(page.locator("#attached summary")).to_have_text("Pasted text40 lines")
    page.click("#attached [data-action=unfold]")
    expect(page.locator("#message")).to_have_value(f"See: {text}")
    expect(page.locator("#attached li")).to_have_count(0)
    assert not page.evaluate(PASTE, "a short one")


def test_a_long_message_is_folded_where_it_is_shown(page: Page) -> None:
    ask(page, "\n".join(f"line {i}" for i in range(60)))
    folded = page.locator(".said").bounding_box()["height"]
    page.click("[data-action=unfold]")
    assert page.locator(".said").bounding_box()["height"] > 3 * folded
    expect(page.locator("[data-action=unfold]")).to_have_attribute("aria-expanded", "true")


def test_the_arrow_up_edits_the_last_message(page: Page) -> None:
    ask(page, "First")
    ask(page, "Second")
    page.press("#message", "ArrowUp")
    expect(page.locator(".editor textarea")).to_be_focused()
    expect(page.locator(".editor textarea")).to_have_value("Second")
    page.keyboard.press("Escape")
    page.fill("#message", "text")
    page.press("#message", "ArrowUp")
    expect(page.locator(".editor")).to_have_count(0)


def test_the_shortcuts_are_shown_and_do_what_they_say(page: Page) -> None:
    ask(page, "First")
    page.keyboard.type("?")
    expect(page.locator("#message")).to_have_value("?")
    page.focus("#options")
    page.keyboard.type("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    expect(page.locator("#shortcut-list dt")).to_have_count(7)
    page.keyboard.press("Control+k")
    expect(page.locator("#search")).not_to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Alt+n")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#message")).to_be_focused()
    page.click(".keys >> text=Keyboard shortcuts")
    expect(page.locator("#shortcuts")).to_be_visible()


def test_what_is_typed_while_an_answer_is_made_is_a_draft(page: Page, server: StubServer) -> None:
    send(page, "First")
    page.fill("#message", "next")
    page.reload()
    expect(page.locator("#message")).to_have_value("next")
