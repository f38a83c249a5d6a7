"""Removes each guard of guards.py from a copy of the package, and fails unless its test then fails.

    python -m tests.mutations.run [WORDS OF A GUARD'S NAME]        `make mutate` runs all of them: a few minutes

A test that passes without its guard protects nothing. The repository's own files are not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.guards import GUARDS, Guard

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = ("qwartet", "tests", "pyproject.toml")
TIMEOUT_S = 180.0  # a test that hangs without its guard has noticed it too
PASSED, FAILED = 0, 1  # pytest's exit codes; others mean that no test ran


def main(words: Sequence[str]) -> int:
    """Exit code 0 if the removal of every selected guard is noticed."""
    guards = [guard for guard in GUARDS if all(word in guard.name for word in words)]
    wrong = [problem for guard in guards if (problem := source_problem(guard))]
    if wrong or not guards:
        print("\n".join(wrong) or "no guard's name contains these words")
        return 1
    with tempfile.TemporaryDirectory(prefix="qwartet-mutations-") as folder:
        copy = Path(folder)
        for name in COPIED:
            _copy(REPOSITORY / name, copy / name)
        code, said = _run(copy, sorted({guard.test for guard in guards}))
        if code != PASSED:
            print(f"{said}\nthe tests fail with all guards in place")
            return 1
        missed = [guard for guard in guards if not is_noticed(copy, guard)]
    print(f"removal noticed for {len(guards) - len(missed)} of {len(guards)} guards")
    return 1 if missed else 0


def source_problem(guard: Guard) -> str | None:
    """What is wrong with the entry itself: its source must occur exactly once in its file, and its test must exist."""
    count = (REPOSITORY / guard.file).read_text(encoding="utf-8").count(guard.source)
    if count != 1:
        return f"{guard.name}: {guard.file} has {guard.source!r} {count} times instead of once; update guards.py"
    file, _, function = guard.test.partition("::")
    if f"def {function}(" not in (REPOSITORY / file).read_text(encoding="utf-8"):
        return f"{guard.name}: {guard.test} does not exist; update guards.py"
    return None


def is_noticed(copy: Path, guard: Guard) -> bool:
    """Whether the guard's test fails without it."""
    path, started = copy / guard.file, time.monotonic()
    source = path.read_text(encoding="utf-8")
    path.write_text(source.replace(guard.source, guard.without), encoding="utf-8")
    try:
        code, _ = _run(copy, [guard.test])
    finally:
        path.write_text(source, encoding="utf-8")
    verdict = {FAILED: "noticed", PASSED: "MISSED", None: "noticed (it hangs)"}.get(
        code, f"BROKEN (pytest says {code})"
    )
    print(f"{time.monotonic() - started:5.1f} s  {verdict}: {guard.name}", flush=True)
    return code in (FAILED, None)


def _run(copy: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """pytest's exit code (None after a timeout) and the end of its output."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S * len(tests)
        )
    except subprocess.TimeoutExpired:
        return None, "timed out"
    return done.returncode, (done.stdout + done.stderr)[-4000:]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
