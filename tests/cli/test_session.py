"""The conversation: commands, history, Ctrl-C and Ctrl-D; with a stub for the model, and on a real terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qwartet.cli.chat.conversant import Turns
from qwartet.cli.chat.session import Session, is_open_block
from qwartet.client.openai_server import AnswerEnd
from qwartet.errors import RequestError
from qwartet.tokenizer.answer_delta import AnswerDelta
from tests.cli.command_line import Terminal


class Stub:
    """A conversant that answers a query with its letters in capitals, piece by piece, or fails as told."""

    context_length = 100
    sampling_defaults: ClassVar[dict[str, Any]] = {"temperature": 0.7, "stop": ()}

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[tuple[str, str]], str | None, dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.end = AnswerEnd("stop", 7, 3)
        self.num_closed = 0
        self.enable_thinking: bool | None = None
        self.cannot: bool | None = None  # what it cannot do about thinking

    def set_thinking(self, enabled: bool | None) -> None:
        if enabled is not None and enabled == self.cannot:
            raise RequestError("this model cannot do so; leave it")
        self.enable_thinking = enabled

    def chat_stream(
        self, query: str, history: Turns, system: str | None, **sampling: Any
    ) -> Generator[AnswerDelta, None, AnswerEnd]:
        self.calls.append((query, list(history), system, sampling))
        try:
            for letter in query:
                yield AnswerDelta(letter.upper())
            if self.error is not None:
                raise self.error
            return self.end
        finally:
            self.num_closed += 1


@pytest.fixture
def llm() -> Stub:
    return Stub()


@pytest.fixture
def session(llm: Stub) -> Session:
    return Session(llm, system=None, sampling={"max_tokens": 9})


def turns(session: Session) -> list[tuple[str, str]]:
    return session.dialogue.conversation.turns


def test_a_turn_sees_the_turns_before_it(session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("one")
    session.handle("  two ")
    assert capsys.readouterr().out == "ONE\nTWO\n"
    assert [(query, history) for query, history, _, _ in llm.calls] == [("one", []), ("two", [("one", "ONE")])]
    assert llm.calls[0][3] == {"max_tokens": 9}


@pytest.mark.parametrize("line", ["", "   ", "\t"])
def test_an_empty_line_is_not_sent(session: Session, llm: Stub, line: str) -> None:
    session.handle(line)
    assert not llm.calls


def test_a_stopped_turn_is_shown_and_not_kept(session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    llm.error = KeyboardInterrupt()
    session.handle("one")
    assert capsys.readouterr() == ("ONE\n", "(Stopped. This turn is not kept.)\n")
    assert turns(session) == [] and llm.num_closed == 1


def test_an_error_ends_the_turn_and_not_the_conversation(
    session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    session.handle("one")
    llm.error = RequestError("the prompt has 9 tokens; shorten it")
    session.handle("two")
    assert capsys.readouterr().err == "error: the prompt has 9 tokens; shorten it\n"
    assert turns(session) == [("one", "ONE")]


def test_a_bug_is_not_hidden(session: Session, llm: Stub) -> None:
    llm.error = AssertionError("a block is free twice")
    with pytest.raises(AssertionError):
        session.handle("one")


def test_help_names_every_command(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("/help")
    shown = capsys.readouterr().out
    names = [
        "help", "system", "clear", "history", "undo", "retry", "set", "seed", "thinking", "stats", "save", "load",
        "exit",
    ]  # fmt: skip
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("/")] == [f"/{name}" for name in names]
    assert all(key in shown for key in ("Ctrl-C", "Ctrl-D", "Tab", "Alt+Enter", '"""'))
    assert max(map(len, shown.splitlines())) <= 80


def test_system_is_shown_and_set(session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("/system")
    session.handle("/system You are a  pirate.")
    session.handle("one")
    session.handle("/system default")
    session.handle("/system You are\na parrot.")
    session.handle("two")
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("system prompt: ") for line in lines if "system" in line] == [
        "(default)", "You are a  pirate.", "(default)", "You are",
    ]  # fmt: skip
    assert [call[2] for call in llm.calls] == ["You are a  pirate.", "You are\na parrot."]


def test_clear_forgets_and_history_shows(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("one")
    capsys.readouterr()
    session.handle("/history")
    assert capsys.readouterr().out == "> one\nONE\n"
    session.handle("/clear")
    session.handle("/history")
    assert turns(session) == [] and "(nothing yet)" in capsys.readouterr().out


def test_seed_is_shown_set_and_checked(session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("/seed", "/seed 42", "/seed x", "/seed -1", "/seed ٣", "one"):
        session.handle(line)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:2] == ["seed: a new one for each answer (default)", "seed: 42"]
    assert printed.err.count("error: seed is ") == 3 == printed.err.count("it must be a whole number of at least 0")
    assert llm.calls[0][3] == {"max_tokens": 9, "seed": 42}


def test_thinking_is_shown_and_set_as_far_as_the_model_can(
    session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    llm.cannot = False
    for line in ("/thinking", "/thinking on", "/thinking off", "/thinking why?", "/thinking default", "/think"):
        session.handle(line)
        seen.append(llm.enable_thinking)
    assert seen == [None, True, True, True, None, None] and not llm.calls
    printed = capsys.readouterr()
    shown = ["(default)", "on", "(default)", "(default)"]
    assert printed.out.splitlines() == [f"thinking: {one}" for one in shown]
    cannot, unknown = printed.err.splitlines()
    assert cannot == "error: this model cannot do so; leave it"
    assert "/thinking takes on, off, default, not 'why?'; to send the line" in unknown


@pytest.mark.parametrize("line", ["/exit", "/quit", "/bye", "/e"])
def test_exit_and_quit_leave(session: Session, line: str) -> None:
    with pytest.raises(EOFError):
        session.handle(line)


def test_an_unknown_command_is_not_sent_and_gets_a_suggestion(
    session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    session.handle("/sytem x")
    session.handle("/\x1b[31m")
    first, second = capsys.readouterr().err.splitlines()
    assert "unknown command /sytem; did you mean /system?" in first
    assert "unknown command /␛[31m; /help lists the commands" in second
    assert not llm.calls


def test_a_line_with_a_space_before_its_slash_is_sent(session: Session, llm: Stub) -> None:
    session.handle(" /etc/passwd is what?")
    assert llm.calls[0][0] == "/etc/passwd is what?"


def test_a_beginning_that_only_one_command_has_will_do(session: Session, llm: Stub) -> None:
    session.handle("one")
    session.handle("/ret")
    assert [call[0] for call in llm.calls] == ["one", "one"]


def test_a_beginning_that_two_have_is_not_obeyed(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("/h")
    assert "unknown command /h; did you mean /help or /history? (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("/clear all", "/clear takes no argument; "),
        ("/save", "/save needs a file; "),
        ("/", "unknown command /; "),
    ],
)
def test_a_command_that_is_not_written_as_it_should_be_changes_nothing(
    session: Session, capsys: pytest.CaptureFixture[str], line: str, fragment: str
) -> None:
    session.handle("one")
    session.handle(line)
    assert f"error: {fragment}" in capsys.readouterr().err
    assert turns(session) == [("one", "ONE")]


# Messages of many lines


def test_a_message_of_many_lines_is_one(session: Session, llm: Stub) -> None:
    session.handle("one\n  two\n")
    session.handle('"""\n  one\n/clear\n"""  ')
    session.handle('"""/clear"""')
    session.handle("// a comment\nx = 1")
    assert [call[0] for call in llm.calls] == ["one\n  two", "  one\n/clear", "/clear", "// a comment\nx = 1"]


@pytest.mark.parametrize("text", ['""""""', '"""\n\n"""', '"""'])
def test_an_empty_block_is_not_sent(session: Session, llm: Stub, text: str) -> None:
    session.handle(text)
    assert not llm.calls


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ('"""', True), ('"""a\nb', True), ('""""', True), ('"""""', True), ('"""a """b', True), ('""""""', False),
        ('"""a"""', False), ('"""\na\n"""  ', False), ("a", False), ("", False), (' """', False), ('a"""', False),
    ],
)  # fmt: skip
def test_a_block_ends_where_its_quotes_do(text: str, is_open: bool) -> None:
    assert is_open_block(text) is is_open


def test_bytes_that_are_no_text_are_sent_as_a_sign(session: Session, llm: Stub) -> None:
    session.handle("a\udcff")
    assert llm.calls[0][0] == "a\ufffd"


# Turns taken back, and answered again


def test_undo_takes_the_last_turn_back_as_a_draft(session: Session, llm: Stub) -> None:
    session.handle("one")
    session.handle("two")
    session.handle("/undo")
    assert turns(session) == [("one", "ONE")] and session.dialogue.draft == "two"


@pytest.mark.parametrize("query", ["/clear", '"""a'])
def test_the_draft_of_what_looks_like_a_command_is_a_message(session: Session, llm: Stub, query: str) -> None:
    session.handle(f" {query}")
    session.handle("/undo")
    session.handle(session.dialogue.draft)
    assert turns(session) == [(query, query.upper())]


def test_the_draft_is_given_to_the_reader_once(session: Session) -> None:
    drafts, lines = [], iter(["one", "/undo", "two", "/exit"])

    def read(draft: str) -> str:
        drafts.append(draft)
        return next(lines)

    session.run(read)
    assert drafts == ["", "", "one", ""]


def test_retry_replaces_the_last_answer(session: Session, llm: Stub) -> None:
    for line in ("one", "two", "/retry"):
        session.handle(line)
    assert llm.calls[2][:2] == ("two", [("one", "ONE")])
    assert turns(session) == [("one", "ONE"), ("two", "TWO")]


def test_a_retry_that_fails_keeps_the_earlier_answer(
    session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    session.handle("one")
    for error in (KeyboardInterrupt(), RequestError("no; no")):
        llm.error = error
        session.handle("/retry")
    assert turns(session) == [("one", "ONE")]
    assert "(Stopped. The earlier answer is kept.)" in capsys.readouterr().err


def test_a_query_without_an_answer_is_what_retry_answers(session: Session, llm: Stub) -> None:
    session.handle("one")
    llm.error = KeyboardInterrupt()
    session.handle("two")
    llm.error = None
    session.handle("/retry")
    assert turns(session) == [("one", "ONE"), ("two", "TWO")]


@pytest.mark.parametrize("line", ["/retry", "/undo"])
def test_where_nothing_was_said_nothing_is_done(
    session: Session, llm: Stub, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    session.handle(line)
    assert not llm.calls and capsys.readouterr().err.startswith("(Nothing to ")


def test_clear_leaves_nothing_to_answer_again(session: Session, llm: Stub) -> None:
    llm.error = KeyboardInterrupt()
    session.handle("one")
    session.handle("/clear")
    session.handle("/retry")
    assert len(llm.calls) == 1


# Settings and figures


def test_settings_are_set_shown_and_reset(session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (
        "/set temp 0.5",
        "/set stop a b",
        "/set",
        "one",
        "/set temperature default",
        "/set max_tokens default",
    ):
        session.handle(line)
    session.handle("two")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["temperature: 0.5", "stop: 'a b'"]
    assert {"temperature: 0.5", "max_tokens: 9", "top_p: (the server's default)"} <= set(lines[2:12])
    assert lines[13:15] == ["temperature: 0.7 (default)", "max_tokens: (the server's default)"]
    assert llm.calls[0][3] == {"max_tokens": 9, "temperature": 0.5, "stop": ("a b",)}
    assert llm.calls[1][3] == {"stop": ("a b",)}


@pytest.mark.parametrize("line", ["/set temperature hot", "/set tempo 1", "/set top_k 1.5"])
def test_a_wrong_setting_changes_nothing(
    session: Session, llm: Stub, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    session.handle(line)
    session.handle("one")
    assert capsys.readouterr().err.startswith("error: ") and llm.calls[0][3] == {"max_tokens": 9}


def test_stats_tell_tokens_speed_and_context(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("/stats")
    session.handle("one")
    session.handle("/stats")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "(no answer yet)"
    figures = r"last answer: 3 tokens for a prompt of 7; [\d.]+ s, the first text after [\d.]+ s, then [\d.]+ tokens/s"
    assert re.fullmatch(figures, shown[2]), shown[2]
    assert shown[3] == "context: 10 tokens of 100 (10%)"


def test_stats_say_where_nobody_counted(session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    llm.end = AnswerEnd("stop")
    session.handle("one")
    session.handle("/stats")
    assert "last answer: tokens not counted; " in capsys.readouterr().out


def test_an_answer_that_was_cut_says_so(session: Session, llm: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    llm.end = AnswerEnd("length", 7, 3)
    session.handle("one")
    printed = capsys.readouterr()
    assert printed.out == "ONE\n" and "/set max_tokens N allows more" in printed.err
    assert turns(session) == [("one", "ONE")]


# Files


def test_a_conversation_goes_on_from_its_file(session: Session, llm: Stub, tmp_path: Path) -> None:
    path = tmp_path / "my talk.json"
    for line in ("/system Be brief.", "/set top_k 3", "one", f"/save {path}", "/clear", "/system default", "two"):
        session.handle(line)
    session.handle(f"/load {path}")
    session.handle("three")
    assert llm.calls[-1] == ("three", [("one", "ONE")], "Be brief.", {"max_tokens": 9, "top_k": 3})


def test_save_overwrites_only_with_its_exclamation_mark(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    session.handle(f"/save {path}")
    session.handle("one")
    session.handle(f"/save {path}")
    assert "already exists; /save! overwrites it" in capsys.readouterr().err
    assert json.loads(path.read_text())["turns"] == []
    session.handle(f"/save! {path}")
    assert len(json.loads(path.read_text())["turns"]) == 1


def test_a_file_that_cannot_be_loaded_is_one_line_and_changes_nothing(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session.handle("one")
    capsys.readouterr()
    hostile = {
        "format": "qwartet conversation",
        "version": 1,
        "system": "x",
        "turns": [],
        "sampling": {"seed": "\x1b" * 10**5},
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(hostile))
    for name in (path, tmp_path / "no", tmp_path, "~nobody-of-this-name/x", "a\0b", "x" * 300):
        session.handle(f"/load {name}")
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
        assert len(printed.err) < 1100 and "\x1b" not in printed.err
    assert turns(session) == [("one", "ONE")] and session.dialogue.conversation.system is None


def test_tab_completes_commands_and_settings(session: Session) -> None:
    complete = session.commands.completions
    assert complete("/s") == ["/save ", "/seed ", "/set ", "/stats", "/system "]
    assert complete("/set t") == ["temperature ", "top_p ", "top_k "]
    assert complete("/set top_p d") == complete("/system def") == complete("/thinking d") == ["default"]
    assert complete("/thinking o") == ["on", "off"]
    assert complete("s") == complete("hello /s") == complete("/s\n/s") == complete("/set top_p 1 ") == []


# Without a line editor


def test_answers_that_go_to_a_file_are_all_that_goes_there(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["one", "two"])

    def read(*_: object) -> str:
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)
    session.run()
    printed = capsys.readouterr()
    assert printed.out == "ONE\nTWO\n"
    assert printed.err.count("> ") == 3


def test_a_block_is_read_line_by_line(session: Session, llm: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(['"""', "one", 'two"""', "three", "/exit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    session.run()
    assert [call[0] for call in llm.calls] == ["one\ntwo", "three"]


def test_ctrl_c_stops_the_answer_and_not_the_program(chat_model: Path) -> None:
    with Terminal(
        "chat", chat_model, "--greedy", "--speculation", "off", "--max-tokens", 1900, "--device", "cpu"
    ) as terminal:
        terminal.expect("/help lists the commands")
        terminal.expect("> ")
        for _ in range(2):  # the engine answers again after it was interrupted
            terminal.send("hello\n")
            terminal.expect(r"hello\r\n[^\r\n]+")
            terminal.interrupt(r"\(Stopped\. This turn is not kept\.\)\r\n> ")
        terminal.send("/history\n")
        terminal.expect(r"\(nothing yet\)\r\n> ")
        terminal.interrupt(r"\(Ctrl-D or /exit leaves\.\)\r\n> ")
        terminal.send("\x04")
        assert terminal.wait() == 0


def test_a_conversation_on_a_terminal(chat_model: Path) -> None:
    with Terminal("chat", chat_model, "--greedy", "--max-tokens", 3, "-q", "--device", "cpu") as terminal:
        terminal.expect("> ")
        terminal.send("hello\n")
        answer = terminal.expect(r"hello\r\n[^\r\n]+\r\n\(Cut at max_tokens[^\r\n]+\r\n> ").splitlines()[-3]
        terminal.send("/history\n")
        assert f"> hello\r\n{answer}" in terminal.expect(r"/history\r\n.+\r\n.+\r\n> ")
        terminal.send("/hsitory\n")
        terminal.expect("did you mean /history")
        terminal.send("/exit\n")
        assert terminal.wait() == 0


def test_ctrl_c_during_the_only_answer_ends_the_program(chat_model: Path) -> None:
    with Terminal(
        "chat", chat_model, "hello", "--greedy", "--speculation", "off", "--max-tokens", 1900, "--device", "cpu"
    ) as terminal:
        terminal.expect(r"loaded in [^\r\n]+\r\n[^\r\n]+")
        terminal.send("\x03")
        assert terminal.wait() == 130
