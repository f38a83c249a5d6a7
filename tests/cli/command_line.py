"""Runs `qwartet` as its users do: in this process, in a process of its own, and on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwartet.cli.main import run
from tests.forked import Forked, run_forked
from tests.golden_data import REPOSITORY

COMMAND = [sys.executable, "-m", "qwartet.cli.main"]


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    def assert_one_line_error(self, *fragments: str) -> None:
        """Exit code 2, nothing on stdout, one line on stderr that says what is wrong and, after "; ", what to do."""
        assert (self.code, self.out) == (2, ""), self
        assert self.err.startswith("error: ") and self.err.count("\n") == 1 and "; " in self.err, self.err
        for fragment in fragments:
            assert fragment in self.err, self.err


@dataclass(frozen=True)
class CommandLine:
    """`qwartet` in this process."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Outcome:
        self.capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *self.capsys.readouterr())


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child: this source tree, one thread, no hub."""
    own = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TERM": "dumb"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QWARTET_DEBUG", "LC_", "LANG"))}
    return {**kept, **own, **changes}


def run_in_process(*arguments: object, stdin: bytes = b"", **changes: str) -> Outcome:
    """`qwartet` in a process of its own, its streams being pipes."""
    words, env = list(map(str, arguments)), environment(**changes)
    if any(name.startswith("PYTHON") for name in changes):  # what only a new interpreter heeds
        result = subprocess.run([*COMMAND, *words], input=stdin, capture_output=True, env=env, timeout=120)
        code, out, err = result.returncode, result.stdout, result.stderr
    else:
        code, out, err = run_forked(words, env, stdin)
    return Outcome(code, out.decode(), err.decode())


class Terminal:
    """A process on a pseudo-terminal; `expect` waits for text, `send` types."""

    def __init__(self, *arguments: object, **changes: str) -> None:
        """`changes`: of the environment; COLUMNS is the terminal's width too."""
        self._master, slave = pty.openpty()
        if "COLUMNS" in changes:
            termios.tcsetwinsize(slave, (24, int(changes["COLUMNS"])))
        files = (slave, slave, slave)
        self._process = Forked(list(map(str, arguments)), environment(**changes), files, on_terminal=True)
        os.close(slave)
        self._unread = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, timeout_s: float = 60) -> str:
        """Reads until the pattern occurs; returns what was shown up to its end."""
        found = self._find(pattern, timeout_s)
        assert found is not None, f"no {pattern!r} within {timeout_s} s in {self._unread!r}"
        return found

    def interrupt(self, pattern: str) -> str:
        """Presses Ctrl-C until the pattern occurs.

        Once is nearly always enough: CPython misses a signal that comes between input()'s prompt and its wait.
        """
        for _ in range(30):
            self.send("\x03")
            if (found := self._find(pattern, 2)) is not None:
                return found
        raise AssertionError(f"no {pattern!r} after Ctrl-C in {self._unread!r}")

    def rest(self) -> str:
        """Everything that is shown until the process has ended."""
        shown, self._unread = self._unread, b""
        while True:
            try:
                data = os.read(self._master, 2**16)
            except OSError:  # what Linux says when the last process on the terminal has ended
                data = b""
            if not data:
                return shown.decode(errors="replace")
            shown += data

    def wait(self, timeout_s: float = 30) -> int:
        """Exit code, once the process has ended."""
        return self._process.wait(timeout_s)

    def _find(self, pattern: str, timeout_s: float) -> str | None:
        deadline = time.monotonic() + timeout_s
        while (match := re.search(pattern.encode(), self._unread)) is None:
            ready, _, _ = select.select([self._master], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                return None
            self._unread += self._read()
        shown, self._unread = self._unread[: match.end()], self._unread[match.end() :]
        return shown.decode(errors="replace")

    def _read(self) -> bytes:
        try:
            data = os.read(self._master, 4096)
        except OSError:  # what Linux says when the last process on the terminal has ended
            data = b""
        assert data, f"the process ended after {self._unread!r}"
        return data


def listing(directory: Path) -> dict[str, bytes]:
    """All files below a directory with their content, to see that a command changed none."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
