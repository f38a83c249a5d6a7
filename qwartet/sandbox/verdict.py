"""Whether a function passes its tests: two sandboxed processes, so that the function cannot forge the verdict.

The worker has the candidate's code, the checker the tests. Calls and answers pass through this process, as lines of
Python literals, and only what the checker says at the end counts. So `os._exit(0)`, patched builtins, printed verdicts
and objects that claim to be equal to everything reach no test.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from qwartet.errors import SandboxError
from qwartet.inert_text import one_line
from qwartet.sandbox.limits import Limits
from qwartet.sandbox.process import Ended, SandboxedProcess
from qwartet.sandbox.walls import Sandbox

MAX_CALLS = 100_000
_CHECKER_CPU_SECONDS = 10  # it also reads the candidate's answers
_REASONS = {
    "S": "syntax error",
    "E": "exception",
    "M": "memory limit",
    "W": "wrong result",
    "P": "passed",
}
_LOADED, _CALL, _BROKEN_TESTS = "R", "C", "X"


@dataclass(frozen=True)
class Problem:
    """A function to be written, and its tests."""

    prompt: str  # imports, functions that the tests may use, and the head of the function: a program by itself
    entry_point: str
    test: str  # defines check(candidate)


@dataclass(frozen=True)
class Verdict:
    """What came of the tests."""

    reason: str  # passed, syntax error, exception, wrong result, time limit, memory limit, output limit, or ended
    message: str = ""  # more of it, as one line

    @property
    def passed(self) -> bool:
        return self.reason == _REASONS["P"]


def judge(sandbox: Sandbox, problem: Problem, source: str, limits: Limits) -> Verdict:
    """Runs the tests on a candidate's `source`, a program that defines the function.

    SandboxError where the sandbox does not start, or where the tests themselves cannot be run.
    """
    with sandbox.start("worker", limits) as worker, sandbox.start("checker", _checker_limits(limits)) as checker:
        deadline = time.monotonic() + limits.seconds
        try:
            worker.send(_json_line(source=source, entry_point=problem.entry_point), deadline)
            kind, message = _read(worker.receive(deadline))
        except Ended as error:
            return Verdict(*worker.why(error))
        if kind != _LOADED:
            return Verdict(_REASONS.get(kind, "ended"), message)
        task = _json_line(prompt=problem.prompt, test=problem.test, entry_point=problem.entry_point)
        return _exchange(worker, checker, task, deadline)


def _exchange(worker: SandboxedProcess, checker: SandboxedProcess, line: bytes, deadline: float) -> Verdict:
    """Gives the checker its task, then passes calls and answers on until it gives its verdict."""
    for _ in range(MAX_CALLS):
        try:
            checker.send(line, deadline)
            asked = checker.receive(deadline)
        except Ended as error:
            return Verdict(*checker.why(error))
        kind, message = _read(asked)
        if kind == _BROKEN_TESTS:
            raise SandboxError(f"the tests cannot be run ({message}); fix the data")
        if kind != _CALL:
            return Verdict(_REASONS.get(kind, "ended"), message)
        try:
            worker.send(asked[1:], deadline)
            line = worker.receive(deadline)
        except Ended as error:
            return Verdict(*worker.why(error))
    return Verdict("time limit", f"more than {MAX_CALLS} calls")


def _read(line: bytes) -> tuple[str, str]:
    """The kind of a line, and its text made safe to show."""
    text = line[:2000].decode("utf-8", "replace")
    return text[:1], one_line(text[1:], 500)


def _json_line(**values: str) -> bytes:
    return json.dumps(values).encode()


def _checker_limits(limits: Limits) -> Limits:
    return Limits(seconds=limits.seconds, cpu_seconds=_CHECKER_CPU_SECONDS)
