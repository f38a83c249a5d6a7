"""The checks for a change to a room, in less than a minute: lint, types, the room's tests, the rules of architecture.

    python -m tests.quick [ROOM ...]        (make quick, make quick ROOM=engine)

Without arguments: the rooms of all files changed since the last commit.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tests.golden_data import REPOSITORY

LONG = (
    "tests/engine/test_schedules.py::test_any_schedule_gives_the_oracles_text",
    "tests/kernels/test_scratch.py::test_the_buffers_hold_what_was_told",
    "tests/server/page/",
    "tests/server/test_rel_life.py",
)
"""Left to `make test`, which starts with these files: otherwise one worker still runs one when the others are done."""

ALWAYS = "tests/test_architecture.py"
OF_DOCUMENTS = (
    "tests/test_readme.py", "tests/docs", "tests/test_security_table.py", "tests/cli/test_reference.py",
)  # fmt: skip


def tests_of(path: str) -> Iterator[str]:
    """Where the tests of a file or a room are: tests/ROOM, tests/test_FILE.py, those of the documents, or none."""
    if path.endswith(".md"):
        yield from OF_DOCUMENTS
        return
    first, *rest = PurePosixPath(path).parts
    name = rest[0] if first in ("qwartet", "tests") and rest else first
    for found in (name, f"test_{name.removesuffix('.py')}.py"):
        target = REPOSITORY / "tests" / found
        if target.is_dir() or (target.is_file() and found.startswith("test_")):
            yield f"tests/{found}"


def changed_files() -> list[str]:
    """Files changed since the last commit, new ones included."""
    commands = (["git", "diff", "--name-only", "HEAD"], ["git", "ls-files", "--others", "--exclude-standard"])
    return [line for command in commands for line in _output(command).splitlines()]


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def main(rooms: Sequence[str]) -> int:
    """Exit code of the first command that fails, or 0."""
    for room in rooms:
        if not list(tests_of(room)):
            print(f"neither tests/{room} nor tests/test_{room}.py exists", file=sys.stderr)
            return 2
    targets = sorted({target for path in rooms or changed_files() for target in tests_of(path)} | {ALWAYS})
    print(f"lint, types, {', '.join(targets)}", flush=True)
    tools, spread = Path(sys.executable).parent, ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"]
    left_out = [part for name in LONG for part in ("--deselect", name)]
    tests = [sys.executable, "-m", "pytest", "-m", "not slow", *spread, "--no-loadscope-reorder", *left_out, *targets]
    for command in ([tools / "ruff", "check"], [tools / "ruff", "format", "--check"], [tools / "mypy"], tests):
        if code := subprocess.run(command, cwd=REPOSITORY).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
