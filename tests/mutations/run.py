"""Takes each guard of guards.py out of a copy of the package, and fails unless its test then fails.

    python -m tests.mutations.run [WORDS OF A GUARD'S NAME]        `make mutate` runs all of them: some minutes

A test that passes without its guard protects nothing. The copy is made of hard links in build/, its changed file is
written anew; the repository's own files are never touched.
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
TIMEOUT_S = 180.0  # a test that hangs without its guard has noticed, too
PASSED, FAILED = 0, 1  # pytest's exit codes; others mean that no test was run


def main(words: Sequence[str]) -> int:
    """Exit code 0 where every guard that was asked for is noticed to be missing."""
    guards = [guard for guard in GUARDS if all(word in guard.name for word in words)]
    wrong = [problem for guard in guards if (problem := source_problem(guard))]
    if wrong or not guards:
        print("\n".join(wrong) or "no guard has such a name")
        return 1
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutations-", dir=build) as folder:
        copy = Path(folder)
        for name in COPIED:
            _link(REPOSITORY / name, copy / name)
        if _run(copy, sorted({guard.test for guard in guards})) != PASSED:
            print("the tests fail with all guards in place")
            return 1
        missed = [guard for guard in guards if not is_noticed(copy, guard)]
    print(f"{len(guards) - len(missed)} of {len(guards)} guards are noticed to be missing")
    return 1 if missed else 0


def source_problem(guard: Guard) -> str | None:
    """What is wrong with an entry of the list itself: its source has to stand once in its file, its test to exist."""
    count = (REPOSITORY / guard.file).read_text(encoding="utf-8").count(guard.source)
    if count != 1:
        return f"{guard.name}: {guard.file} has {guard.source!r} {count} times; write what stands there now"
    file, _, function = guard.test.partition("::")
    if f"def {function}(" not in (REPOSITORY / file).read_text(encoding="utf-8"):
        return f"{guard.name}: there is no {guard.test}"
    return None


def is_noticed(copy: Path, guard: Guard) -> bool:
    """Whether the guard's test fails without it."""
    path, started = copy / guard.file, time.monotonic()
    source = path.read_text(encoding="utf-8")
    _replace(path, source.replace(guard.source, guard.without))
    try:
        code = _run(copy, [guard.test])
    finally:
        _replace(path, source)
    said = {FAILED: "noticed", PASSED: "MISSED", None: "noticed (it hangs)"}.get(code, f"BROKEN (pytest says {code})")
    print(f"{time.monotonic() - started:5.1f} s  {said}: {guard.name}", flush=True)
    return code in (FAILED, None)


def _run(copy: Path, tests: Sequence[str]) -> int | None:
    """pytest's exit code; None where it took too long."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=TIMEOUT_S * len(tests))
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def _link(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")  # whose files name those of the repository
        shutil.copytree(source, target, copy_function=os.link, ignore=ignored)
    else:
        os.link(source, target)


def _replace(path: Path, text: str) -> None:
    """Writes a file anew, so that what it was linked to stays as it is."""
    path.unlink()
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
