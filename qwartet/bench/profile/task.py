"""Runs a task of bench/profile/child.py in a process of its own, so that its peak of memory is its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

OnProgress = Callable[[int, int], object]
_TAIL_BYTES = 2**16


@dataclass(frozen=True)
class Failure:
    """Why a task has no result."""

    reason: str
    is_out_of_memory: bool


def run_task(
    task: Mapping[str, Any],
    environment: Mapping[str, str],
    on_progress: OnProgress = lambda _prompt, _generated: None,
) -> dict[str, Any] | Failure:
    """The result of a task; `environment` adds to the variables of this process.

    Whatever ends the call early, Ctrl-C included, ends the process too.
    """
    command = [sys.executable, "-m", "qwartet.bench.profile.child"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8",
            env={**os.environ, **environment},
        )  # fmt: skip
        try:
            last = _converse(process, task, on_progress)
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if "result" in last:
            result: dict[str, Any] = last["result"]
            return result
        if "error" in last:
            return Failure(last["error"], last["is_out_of_memory"])
        return _crash(process.returncode, errors)


def _converse(process: subprocess.Popen[str], task: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    """Gives the process its task and reads what it says; the last of it, or nothing."""
    assert process.stdin is not None and process.stdout is not None
    try:
        with process.stdin:
            process.stdin.write(json.dumps(task))
    except BrokenPipeError:
        return {}
    said: dict[str, Any] = {}
    with process.stdout:
        for line in process.stdout:
            with suppress(ValueError):  # a line that a library of the process wrote past Python
                said = json.loads(line)
            if "progress" in said:
                on_progress(*said.pop("progress"))
    return said


def _crash(code: int, errors: IO[bytes]) -> Failure:
    """A process that ended without a word: the system kills one that takes too much memory."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _TAIL_BYTES))
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    said = lines[-1] if lines else "nothing on stderr"
    if code == -signal.SIGKILL:
        return Failure("the system ended the process (signal 9), as it does when memory runs out", True)
    if code < 0:
        said = f"{signal.Signals(-code).name}: {said}"
    return Failure(f"the process ended with code {code} ({said})", "bad_alloc" in said)
