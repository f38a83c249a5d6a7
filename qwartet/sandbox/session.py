"""A Python session in the sandbox: cells run one after another and share their variables, as in a notebook.

Nothing that a session says is trusted: its answers are bounded text, and they end nothing but the session.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwartet.errors import SandboxError
from qwartet.sandbox.interpreter import package_place
from qwartet.sandbox.limits import Limits
from qwartet.sandbox.process import START_SECONDS, Ended
from qwartet.sandbox.walls import Sandbox

# Room for numpy, pandas and matplotlib, which take more than a function with its tests does.
SESSION_LIMITS = Limits(
    seconds=30.0,
    cpu_seconds=90,
    memory_bytes=2**31,
    processes=16,
    open_files=256,
    file_bytes=2**26,
    disk_bytes=2**28,
    output_bytes=2**14,
)
_ENVIRONMENT = {
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": "/tmp/matplotlib",
    # A library that starts a thread for each core meets the limit of processes.
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")},
}
_MAX_FIGURES = 100


@dataclass(frozen=True)
class CellResult:
    """What came of a cell; all of it is untrusted text, each up to the limit of output."""

    stdout: str = ""
    stderr: str = ""
    value: str = ""  # the repr of the expression that the cell ends with; empty for none, and for None
    error: str = ""  # a traceback, or which limit ended the session; empty where the cell ran to its end
    figures: tuple[str, ...] = ()  # names of the pictures of matplotlib's figures, within the sandbox


class Session:
    """One session; leaving the context ends it, with all that its cells have started."""

    def __init__(
        self,
        sandbox: Sandbox,
        limits: Limits = SESSION_LIMITS,
        *,
        packages: tuple[str, ...] = (),
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Begins in a directory of its own with copies of `files`, by name, read-only. It may import what is in the
        directories `packages`, beside the standard library. SandboxError where it does not start.
        """
        self._limits = limits
        self._end: CellResult | None = None
        self._process = sandbox.start("session", limits, packages)
        setup = {
            "environment": _ENVIRONMENT,
            "packages": [package_place(number) for number in range(len(packages))],
            "files": {name: base64.b64encode(content).decode() for name, content in (files or {}).items()},
            "most": limits.output_bytes,
        }
        try:
            if isinstance(answer := self._asked(setup, START_SECONDS), CellResult):
                raise SandboxError(f"the session in the sandbox does not start ({answer.error})")
        except BaseException:
            self.end()
            raise

    def run(self, source: str) -> CellResult:
        """Runs a cell. A cell that meets a limit, or ends the process, ends the session: later ones give the same."""
        if self._end is None:
            answer = self._asked(source, self._limits.seconds)
            if isinstance(answer, CellResult):
                self._end = answer
            else:
                return _read(answer)
        return self._end

    def end(self) -> None:
        """Kills what runs."""
        self._process.end()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def _asked(self, value: Any, seconds: float) -> Any:
        """The answer to a line; a CellResult with the reason where none comes."""
        deadline = time.monotonic() + seconds
        try:
            self._process.send(json.dumps(value).encode(), deadline)
            return json.loads(self._process.receive(deadline))
        except Ended as error:
            return CellResult(error=": ".join(filter(None, self._process.why(error))))
        except (ValueError, RecursionError):
            return CellResult(error="ended: the answer is not JSON")


def _read(answer: Any) -> CellResult:
    found = answer if isinstance(answer, dict) else {}
    texts = {name: found.get(name) for name in ("stdout", "stderr", "value", "error")}
    figures = found.get("figures")
    if not isinstance(figures, list) or not all(isinstance(text, str) for text in (*texts.values(), *figures)):
        return CellResult(error="ended: the answer is not that of a cell")
    whole = {name: _whole(str(text)) for name, text in texts.items()}
    return CellResult(**whole, figures=tuple(map(_whole, figures[:_MAX_FIGURES])))


def _whole(text: str) -> str:
    """The text without unpaired surrogates, which no tokenizer and no file takes."""
    return text.encode("utf-8", "replace").decode()
