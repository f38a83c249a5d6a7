"""The conversation: commands, history, Ctrl-C and Ctrl-D; with a stub for the model, and on a real terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwartet.cli.session import Session
from qwartet.errors import RequestError
from tests.cli.command_line import Terminal


class StubLLM:
    """Answers a query with its letters in capitals, piece by piece, or fails as told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[tuple[str, str]], str | None, dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.num_closed = 0

    def chat_stream(
        self, query: str, history: list[tuple[str, str]], system: str | None, **sampling: Any
    ) -> Iterator[str]:
        self.calls.append((query, list(history), system, sampling))
        try:
            for letter in query:
                yield letter.upper()
            if self.error is not None:
                raise self.error
        finally:
            self.num_closed += 1


@pytest.fixture
def llm() -> StubLLM:
    return StubLLM()


@pytest.fixture
def session(llm: StubLLM) -> Session:
    return Session(llm, system=None, sampling={"max_tokens": 9})  # type: ignore[arg-type]


def test_a_turn_sees_the_turns_before_it(session: Session, llm: StubLLM, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("one")
    session.handle("  two ")
    assert capsys.readouterr().out == "ONE\nTWO\n"
    assert [(query, history) for query, history, _, _ in llm.calls] == [("one", []), ("two", [("one", "ONE")])]
    assert llm.calls[0][3] == {"max_tokens": 9}


@pytest.mark.parametrize("line", ["", "   ", "\t"])
def test_an_empty_line_is_not_sent(session: Session, llm: StubLLM, line: str) -> None:
    session.handle(line)
    assert not llm.calls


def test_a_stopped_turn_is_shown_and_not_kept(
    session: Session, llm: StubLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    llm.error = KeyboardInterrupt()
    session.handle("one")
    assert capsys.readouterr() == ("ONE\n", "(Stopped. This turn is not kept.)\n")
    assert session.history == [] and llm.num_closed == 1


def test_an_error_ends_the_turn_and_not_the_conversation(
    session: Session, llm: StubLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    session.handle("one")
    llm.error = RequestError("the prompt has 9 tokens; shorten it")
    session.handle("two")
    assert capsys.readouterr().err == "error: the prompt has 9 tokens; shorten it\n"
    assert session.history == [("one", "ONE")]


def test_a_bug_is_not_hidden(session: Session, llm: StubLLM) -> None:
    llm.error = AssertionError("a block is free twice")
    with pytest.raises(AssertionError):
        session.handle("one")


def test_help_names_every_command(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("/help")
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("/help", "/system", "/clear", "/history", "/seed", "/exit", "Ctrl-C"))


def test_system_is_shown_and_set(session: Session, llm: StubLLM, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("/system")
    session.handle("/system You are a  pirate.")
    session.handle("one")
    assert capsys.readouterr().out.splitlines()[:2] == [
        "system prompt: (the default)",
        "system prompt: You are a  pirate.",
    ]
    assert llm.calls[0][2] == "You are a  pirate."


def test_clear_forgets_and_history_shows(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("one")
    capsys.readouterr()
    session.handle("/history")
    assert capsys.readouterr().out == "> one\nONE\n"
    session.handle("/clear")
    session.handle("/history")
    assert session.history == [] and "(nothing yet)" in capsys.readouterr().out


def test_seed_is_shown_set_and_checked(session: Session, llm: StubLLM, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("/seed", "/seed 42", "/seed x", "/seed -1", "/seed ٣", "one"):
        session.handle(line)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:2] == ["seed: a new one for every answer", "seed: 42"]
    assert printed.err.count("write /seed 42") == 3
    assert llm.calls[0][3] == {"max_tokens": 9, "seed": 42}


@pytest.mark.parametrize("line", ["/exit", "/quit"])
def test_exit_and_quit_leave(session: Session, line: str) -> None:
    with pytest.raises(EOFError):
        session.handle(line)


def test_an_unknown_command_is_not_sent_and_gets_a_suggestion(
    session: Session, llm: StubLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    session.handle("/sytem x")
    session.handle("/\x1b[31m")
    first, second = capsys.readouterr().err.splitlines()
    assert "unknown command /sytem; did you mean /system?" in first
    assert "unknown command /␛[31m; /help lists the commands" in second
    assert not llm.calls


def test_a_line_with_a_space_before_its_slash_is_sent(session: Session, llm: StubLLM) -> None:
    session.handle(" /etc/passwd is what?")
    assert llm.calls[0][0] == "/etc/passwd is what?"


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


def test_ctrl_c_stops_the_answer_and_not_the_program(chat_model: Path) -> None:
    with Terminal("chat", chat_model, "--greedy", "--max-tokens", 1900, "--device", "cpu") as terminal:
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
        answer = terminal.expect(r"hello\r\n[^\r\n]+\r\n> ").splitlines()[-2]
        terminal.send("/history\n")
        assert f"> hello\r\n{answer}" in terminal.expect(r"/history\r\n.+\r\n.+\r\n> ")
        terminal.send("/hsitory\n")
        terminal.expect("did you mean /history")
        terminal.send("/exit\n")
        assert terminal.wait() == 0


def test_ctrl_c_during_the_only_answer_ends_the_program(chat_model: Path) -> None:
    with Terminal("chat", chat_model, "hello", "--greedy", "--max-tokens", 1900, "--device", "cpu") as terminal:
        terminal.expect(r"loaded in [^\r\n]+\r\n[^\r\n]+")
        terminal.send("\x03")
        assert terminal.wait() == 130
