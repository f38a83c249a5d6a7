"""A conversation at a terminal: lines in, answers out as they are made, and a few commands."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from qwartet.cli import failures
from qwartet.cli.terminal import one_line, printable

if TYPE_CHECKING:
    from qwartet.llm import LLM

PROMPT = "> "


class Session:
    """One conversation. A turn enters the history when its answer is complete: a stopped one leaves no trace."""

    def __init__(self, llm: LLM, *, system: str | None, sampling: dict[str, Any]) -> None:
        self.llm = llm
        self.system = system
        self.sampling = dict(sampling)
        self.history: list[tuple[str, str]] = []
        self.commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "help": ("/help", "show this", self._help),
            "system": ("/system [TEXT]", "show or set the system prompt", self._system),
            "clear": ("/clear", "forget the conversation", self._clear),
            "history": ("/history", "show the conversation", self._history),
            "seed": ("/seed [N]", "show or set the seed of every answer", self._seed),
            "exit": ("/exit", "leave (also /quit and Ctrl-D)", self._exit),
        }

    def run(self) -> None:
        """Reads and answers lines until the user leaves."""
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() its line editing

        _say("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")
        while True:
            try:
                self.handle(_read_line())
            except KeyboardInterrupt:
                _say("\n(Ctrl-D or /exit leaves.)")
            except EOFError:
                _say("")
                return

    def handle(self, line: str) -> None:
        """Does what one line asks for; raises EOFError when that is to leave."""
        if line.startswith("/"):
            self._run_command(line)
        elif line.strip():
            self._answer(line.strip())

    def _answer(self, query: str) -> None:
        pieces: list[str] = []
        try:
            # Closing the stream ends the request in the engine, whatever interrupts this loop.
            with closing(self.llm.chat_stream(query, self.history, self.system, **self.sampling)) as stream:
                for piece in stream:
                    pieces.append(piece)
                    print(printable(piece, sys.stdout), end="", flush=True)
            print()
        except KeyboardInterrupt:
            print()
            _say("(Stopped. This turn is not kept.)")
            return
        except Exception as error:
            text = failures.message(error)
            if text is None or isinstance(error, BrokenPipeError):
                raise
            _say(f"error: {one_line(text)}")
            return
        self.history.append((query, "".join(pieces)))

    def _run_command(self, line: str) -> None:
        name, _, argument = line[1:].partition(" ")
        name = "exit" if name == "quit" else name
        if name in self.commands:
            self.commands[name][2](argument.strip())
            return
        near = difflib.get_close_matches(name, self.commands, n=1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists the commands"
        _say(f"unknown command /{one_line(name)}; {hint} (to send the line as it is, begin it with a space)")

    def _help(self, _: str) -> None:
        for usage, what, _command in self.commands.values():
            print(f"{usage:<16}{what}")
        print("Ctrl-C stops an answer; the turn is then not kept. An answer sees the turns before it.")

    def _system(self, text: str) -> None:
        if text:
            self.system = text
        print(f"system prompt: {printable(self.system or '(the default)', sys.stdout)}")

    def _clear(self, _: str) -> None:
        self.history.clear()
        print("The conversation is forgotten.")

    def _history(self, _: str) -> None:
        if not self.history:
            print("(nothing yet)")
        for query, response in self.history:
            print(printable(f"{PROMPT}{query}\n{response}", sys.stdout))

    def _seed(self, text: str) -> None:
        if text and not (text.isascii() and text.isdigit() and int(text) < 2**63):
            _say(f"the seed {one_line(text)!r} is no whole number of at least 0; write /seed 42")
            return
        if text:
            self.sampling["seed"] = int(text)
        print(f"seed: {self.sampling.get('seed', 'a new one for every answer')}")

    def _exit(self, _: str) -> None:
        raise EOFError


def _read_line() -> str:
    """The next line of the user; the prompt goes to the terminal even when the answers go to a file."""
    if sys.stdout.isatty():
        return input(PROMPT)
    print(PROMPT, end="", file=sys.stderr, flush=True)
    return input()


def _say(text: str) -> None:
    """Something about the conversation that is not part of it."""
    print(text, file=sys.stderr)
