"""A whole program in the sandbox: its output comes back, bounded, and its end is told."""

from __future__ import annotations

from qwartet.sandbox.limits import Limits
from qwartet.sandbox.script import Outcome, run_script
from qwartet.sandbox.walls import Sandbox


def test_output_and_errors_come_back(sandbox: Sandbox) -> None:
    assert run_script(sandbox, "print(6 * 7)", Limits()) == Outcome("42\n", 0)
    found = run_script(sandbox, "print('before', flush=True)\n1 / 0", Limits())
    assert found.exit_code == 1 and found.output.startswith("before\nTraceback") and "ZeroDivisionError" in found.output
    assert run_script(sandbox, "import os; os.kill(os.getpid(), 11)", Limits()) == Outcome("", 128 + 11)
    assert run_script(sandbox, "raise SystemExit(3)", Limits()).exit_code == 3


def test_output_is_bounded(sandbox: Sandbox) -> None:
    found = run_script(sandbox, "while True: print('x' * 999)", Limits(output_bytes=5000))
    assert (found.limit, found.exit_code, len(found.output)) == ("output", None, 5000)


def test_time_is_bounded(sandbox: Sandbox) -> None:
    found = run_script(sandbox, "import time\nprint('begun', flush=True)\ntime.sleep(1000)", Limits(seconds=1.5))
    assert found == Outcome("begun\n", None, "time")
    assert run_script(sandbox, "while True: pass", Limits(cpu_seconds=1, seconds=30)).limit == "time"


def test_it_begins_with_an_empty_directory_no_input_and_no_environment(sandbox: Sandbox) -> None:
    source = "import os, sys\nprint(os.getcwd(), os.listdir(), sys.stdin.read() == '')\n"
    source += "print(sorted(set(os.environ) - {'PWD', 'LC_CTYPE'}))"
    assert run_script(sandbox, source, Limits()).output == "/tmp [] True\n['PYTHONHASHSEED']\n"


def test_the_number_of_files_is_bounded_without_bubblewrap(sandbox: Sandbox) -> None:
    found = run_script(sandbox, "for n in range(2000): open(f'/tmp/{n}', 'w').close()", Limits())
    assert found.exit_code == (1 if sandbox.mechanism == "namespaces" else 0)
