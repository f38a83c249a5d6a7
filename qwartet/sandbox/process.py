"""A sandboxed process: started behind the walls, spoken to in bounded lines, and ended with all that it started."""

from __future__ import annotations

import os
import select
import subprocess
import time
from contextlib import suppress
from typing import Literal

from qwartet.errors import SandboxError
from qwartet.sandbox.launch import Mechanism, launch
from qwartet.sandbox.limits import MAX_MESSAGE_BYTES, Limits

START_SECONDS = 30.0  # a machine may be busy
_XCPU, _KILLED = 128 + 24, 128 + 9  # exit codes


class Ended(Exception):
    """No line came; `reason` says why."""

    def __init__(self, reason: Literal["time", "output", "exit"]) -> None:
        super().__init__(reason)
        self.reason = reason


class SandboxedProcess:
    """One program of inside.py, ready to be given its code."""

    def __init__(
        self,
        mechanism: Mechanism,
        role: str,
        limits: Limits,
        *,
        filtered: bool = True,
        packages: tuple[str, ...] = (),
    ) -> None:
        """SandboxError where it does not start; `filtered` is whether system calls are, `packages` as for launch."""
        self._buffer = b""
        self.popen = launch(mechanism, role, limits, filtered=filtered, packages=packages)
        assert self.popen.stdin is not None and self.popen.stdout is not None
        self._input, self._output = self.popen.stdin.fileno(), self.popen.stdout.fileno()
        os.set_blocking(self._input, False)
        try:
            deadline = time.monotonic() + START_SECONDS
            said = self.receive(deadline)
            if said != b"ready":
                said += b" " + self.read_all(time.monotonic() + 1, 2000)
        except Ended as error:
            said = b"" if error.reason == "time" else self._buffer
        except BaseException:
            self.end()
            raise
        if said != b"ready":
            self.end()
            reason = said.decode("utf-8", "replace").strip() or f"no sign of life within {START_SECONDS:.0f} s"
            raise SandboxError(f"the sandbox ({mechanism}) does not start: {reason}")

    def send(self, line: bytes, deadline: float) -> None:
        """Writes a line; Ended where it is not taken."""
        content = line + b"\n"
        poll = select.poll()
        poll.register(self._input, select.POLLOUT)
        while content:
            if not poll.poll(_milliseconds(deadline)):
                raise Ended("time")
            try:
                content = content[os.write(self._input, content) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise Ended("exit") from None

    def receive(self, deadline: float) -> bytes:
        """The next line, without its end; Ended where none comes, or too long a one."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_MESSAGE_BYTES:
                raise Ended("output")
            self._buffer += self._read(deadline)
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line

    def read_all(self, deadline: float, most: int) -> bytes:
        """All further output, up to `most` bytes or the deadline; what comes after either is lost."""
        with suppress(Ended):
            while len(self._buffer) <= most:
                self._buffer += self._read(deadline)
        content, self._buffer = self._buffer[:most], b""
        return content

    def _read(self, deadline: float) -> bytes:
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        if not poll.poll(_milliseconds(deadline)):
            raise Ended("time")
        if not (content := os.read(self._output, 65536)):
            raise Ended("exit")
        return content

    def exit_code(self) -> int | None:
        """How it ended, waiting a moment: 128 and the signal's number where a signal did; None where it goes on."""
        try:
            return self.popen.wait(2)
        except subprocess.TimeoutExpired:
            return None

    def why(self, error: Ended) -> tuple[str, str]:
        """The reason, and more of it, why no line came: time limit, output limit, or ended."""
        if error.reason == "time":
            return "time limit", ""
        if error.reason == "output":
            return "output limit", "an answer is too long"
        code = self.exit_code()
        if code == _XCPU:
            return "time limit", "CPU time"
        if code is None:
            return "ended", "it closed its output before it answered"
        if code == _KILLED:
            return "ended", "killed, for CPU time or memory"
        return "ended", f"the process ended before it answered (exit code {code})"

    def end(self) -> None:
        """Kills it and all that it has started: they are in a namespace that ends with its first process."""
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def __enter__(self) -> SandboxedProcess:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()


def _milliseconds(deadline: float) -> int:
    return max(0, int(1000 * (deadline - time.monotonic())) + 1)
