"""Runs a whole program in the sandbox and keeps what it prints."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from qwartet.sandbox.limits import Limits
from qwartet.sandbox.process import Ended
from qwartet.sandbox.walls import Sandbox


@dataclass(frozen=True)
class Outcome:
    """How a program ended; its output is untrusted text."""

    output: str  # standard output and error, up to the limit
    exit_code: int | None  # 128 and the signal's number where a signal ended it; None where it was killed at a limit
    limit: str = ""  # time or output, where that ended it


def run_script(sandbox: Sandbox, source: str, limits: Limits) -> Outcome:
    """Runs Python `source`. SandboxError where the sandbox does not start."""
    with sandbox.start("script", limits) as process:
        deadline = time.monotonic() + limits.seconds
        try:
            process.send(json.dumps(source).encode(), deadline)
        except Ended as error:
            return Outcome("", None if error.reason == "time" else process.exit_code(), error.reason)
        content = process.read_all(deadline, limits.output_bytes + 1)
        text = content[: limits.output_bytes].decode("utf-8", "replace")
        if len(content) > limits.output_bytes:
            return Outcome(text, None, "output")
        if time.monotonic() >= deadline:
            return Outcome(text, None, "time")
        code = process.exit_code()
        return Outcome(text, code, "time" if code == 128 + 24 else "")
