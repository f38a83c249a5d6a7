"""A session: cells share their variables, what comes of each is bounded, and a hostile cell harms its session alone.

The hostile programs are those of SEC-22, as cells.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qwartet.errors import SandboxError
from qwartet.sandbox.interpreter import package_directories, python_view
from qwartet.sandbox.limits import Limits
from qwartet.sandbox.process import SandboxedProcess
from qwartet.sandbox.session import SESSION_LIMITS, CellResult, Session
from qwartet.sandbox.walls import Sandbox
from tests.sandbox.marked import MARK, marked_processes

QUICK = Limits(seconds=15.0, cpu_seconds=1, output_bytes=1000)
SLEEPY = replace(QUICK, seconds=1.5)


@pytest.fixture
def session(sandbox: Sandbox) -> Iterator[Session]:
    with Session(sandbox, QUICK) as one:
        yield one


def test_cells_share_their_variables(session: Session) -> None:
    assert session.run("import math\nx = 6") == CellResult()
    assert session.run("def f(y):\n    return x * y\nprint(f(7))") == CellResult(stdout="42\n")
    assert session.run("x = math.floor(2.5)\nf(7)") == CellResult(value="14")


def test_sessions_share_nothing(sandbox: Sandbox) -> None:
    with Session(sandbox, QUICK) as one, Session(sandbox, QUICK) as other:
        one.run("x = 1\nopen('mine', 'w').close()")
        assert "NameError" in other.run("x").error
        assert other.run("import os\nos.listdir()").value == "[]"


def test_only_the_expression_at_the_end_is_shown(session: Session) -> None:
    assert session.run("1 + 1\n'a' + 'b'").value == "'ab'"
    for silent in ("None", "x = 3", "7;", "", "# nothing", "if True:\n    5"):
        assert session.run(silent) == CellResult(), silent


def test_an_exception_is_a_traceback_of_the_cell_alone(session: Session) -> None:
    session.run("def half(n):\n    return n / 0")
    found = session.run("import sys\nprint('before')\nprint('warning', file=sys.stderr)\nhalf(3)\nprint('after')")
    assert (found.stdout, found.stderr, found.value) == ("before\n", "warning\n", "")
    assert found.error.splitlines()[0] == "Traceback (most recent call last):"
    assert "inside" not in found.error and "<string>" not in found.error
    assert "return n / 0" in found.error and found.error.endswith("\nZeroDivisionError: division by zero")
    assert session.run("half").error == "", "the session goes on"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def f(:", "SyntaxError"),
        ("%matplotlib inline", "SyntaxError"),
        ("x = 1\0", "SyntaxError|ValueError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("input()", "EOFError"),
        ("class E(Exception):\n    def __str__(self):\n        raise KeyboardInterrupt\nraise E", "E"),
        ("class R:\n    def __repr__(self):\n        raise ValueError('no')\nR()", "ValueError: no"),
        ("bytearray(2**32)", "MemoryError"),
        ("def f():\n    f()\nf()", "RecursionError"),
        ("(" * 100_000, "MemoryError|SyntaxError|RecursionError"),
    ],
)
def test_whatever_is_raised_is_an_error_and_the_session_goes_on(session: Session, source: str, error: str) -> None:
    found = session.run(source)
    assert any(one in found.error for one in error.split("|")), found
    assert session.run("'still ' + 'here'").value == "'still here'"


def test_output_is_bounded_and_costs_no_failure(session: Session) -> None:
    found = session.run(
        "import sys\nfor _ in range(9999):\n    print('x' * 99)\nsys.stderr.write('é' * 9999)\n'v' * 9999"
    )
    assert found.stdout.startswith("x" * 99 + "\n") and found.stdout.endswith("...") and len(found.stdout) == 1003
    assert len(found.stderr.encode()) == 1003 and len(found.value) == 1000 and not found.error
    assert len(session.run("raise ValueError('m' * 9999)").error) == 1000
    assert session.run("print('x' * 1000, end='')").stdout == "x" * 1000, "what is not cut is not marked"


def test_streams_are_files_as_programs_expect(session: Session) -> None:
    source = (
        "import sys\nsys.stdout.buffer.write(b'a')\nsys.stdout.write('\\ud800')\nsys.stdout.flush()\nsys.stdout.close()"
    )
    assert session.run(source) == CellResult(stdout="a\\ud800")
    assert session.run("print('again')").stdout == "again\n"


def test_time_is_bounded_for_each_cell(sandbox: Sandbox) -> None:
    with Session(sandbox, replace(SLEEPY, cpu_seconds=20)) as session:
        for _ in range(2):  # longer together than the limit
            assert session.run("import time\ntime.sleep(0.9)") == CellResult()
        ended = session.run("print('begun')\ntime.sleep(1000)")
        assert ended == CellResult(error="time limit")
        assert session.run("1") == ended


def test_files_are_copied_and_read_only(sandbox: Sandbox, tmp_path: Path) -> None:
    names = {"data.csv": b"x,y\n1,2\n", "表.txt": "中文".encode(), "empty": b""}
    with Session(sandbox, QUICK, files=names) as session:
        assert session.run("import os\nsorted(os.listdir())").value == repr(sorted(names))
        assert session.run("open('data.csv').read(), open('表.txt').read()").value == repr(("x,y\n1,2\n", "中文"))
        assert "PermissionError" in session.run("open('data.csv', 'w')").error
        assert session.run("open('new', 'w').write('n')").value == "1"


def test_files_beyond_the_limits_are_an_error(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="the session in the sandbox does not start"):
        Session(sandbox, QUICK, files={"large": bytes(2 * QUICK.file_bytes)})


def test_it_begins_without_input_and_with_few_variables(session: Session) -> None:
    found = session.run("import os, sys\nsorted(os.environ), sys.stdin.read(), os.listdir(os.path.expanduser('~'))")
    assert ("'PYTHONHASHSEED'" in found.value and "'PATH'" not in found.value) or found.error
    assert session.run("__name__").value == "'__main__'"
    assert session.run("import os\nsorted(set(os.environ) - {'PWD', 'LC_CTYPE', 'PYTHONHASHSEED'})").value == repr(
        [
            "MKL_NUM_THREADS",
            "MPLBACKEND",
            "MPLCONFIGDIR",
            "NUMEXPR_NUM_THREADS",
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
        ]
    )


def test_random_numbers_and_sets_are_the_same_in_every_session(sandbox: Sandbox) -> None:
    found = set()
    for _ in range(2):
        with Session(sandbox, QUICK) as session:
            found.add(session.run("import random\nrandom.random(), {'a', 'b', 'c', 'd'}").value)
    assert len(found) == 1 and found != {""}


def test_packages_are_seen_only_where_they_are_asked_for(sandbox: Sandbox) -> None:
    [directory] = package_directories(["numpy"])
    with Session(sandbox, QUICK) as session:
        assert "ModuleNotFoundError" in session.run("import numpy").error
        assert session.run(f"import os\nos.path.exists({directory!r})").value == "False"
    with Session(sandbox, SESSION_LIMITS, packages=(directory,)) as session:
        assert session.run("import numpy\nint(numpy.arange(4).sum())") == CellResult(value="6")
        assert session.run(f"import os\nos.path.exists({directory!r})").value == "False", "nor does its path"
        found = session.run("open(os.path.dirname(numpy.__file__) + '/mine', 'w')").error
        assert "Read-only file system" in found or "Permission denied" in found


def test_packages_are_seen_wherever_they_are(sandbox: Sandbox, tmp_path: Path) -> None:
    directory = tmp_path / "site-packages"
    directory.mkdir()
    tmp_path.chmod(0o700)
    (directory / "mine.py").write_text("x = 7")
    with Session(sandbox, QUICK, packages=(str(directory),)) as session:
        assert session.run("import mine\nmine.x") == CellResult(value="7")


def test_only_directories_of_packages_are_shown() -> None:
    assert package_directories(["no_such_package", "qwartet", "json"]) == (), "not the repository, not the library"
    [directory] = package_directories(["numpy"])
    assert directory.endswith("-packages") and python_view((directory,)).paths == python_view().paths


def test_open_figures_are_saved_and_shown(sandbox: Sandbox) -> None:
    pytest.importorskip("matplotlib")
    with Session(sandbox, SESSION_LIMITS, packages=package_directories(["matplotlib"])) as session:
        source = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title('折线')\nplt.show()\nplt.figure()\nx = 1"
        found = session.run(source)
        assert found == CellResult(figures=("/tmp/workspace/fig-001.png", "/tmp/workspace/fig-002.png"))
        assert session.run("open('/tmp/workspace/fig-001.png', 'rb').read(4)").value == repr(b"\x89PNG")
        assert session.run("plt.plot([1])\nx") == CellResult(value="1", figures=("/tmp/workspace/fig-003.png",))
        assert "ValueError" in session.run("plt.title('$\\frac{$')").error, "a figure that cannot be drawn is an error"
        found = session.run("plt.plot([1])\n1 / 0")
        assert "ZeroDivisionError" in found.error and len(found.figures) == 1
        assert session.run("x") == CellResult(value="1"), "each is shown once"


# What a hostile cell does, and what becomes of it; each tries to reach beyond the session, or to break the next cell.
HOSTILE = {
    "endless loop": ("while True:\n    pass", "time limit"),
    "endless loop that ignores the limit": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        "ended: killed|time limit",
    ),
    "endless sleep": ("import time\ntime.sleep(1000)", "time limit"),
    "os._exit": ("os._exit(0)", "ended: the process ended"),
    "a crash": ("import ctypes\nctypes.string_at(0)", "ended: the process ended"),
    "killed parent": ("os.kill(PARENT, 9)", "Error"),
    "killed everything": ("os.kill(-1, 9)\nos.kill(os.getpid(), 9)", "ended|Error"),
    "killed first process": ("os.kill(1, 9)", "|Error|ended"),
    "full output": ("while True:\n    print('x' * 10**6)", "time limit"),
    "full output by hand": ("while True:\n    os.write(1, b'x' * 10**6)", "time limit"),
    "full channel": (
        "import threading\n"
        "for descriptor in range(3, 64):\n"
        "    def fill(descriptor=descriptor):\n        while True:\n            os.write(descriptor, b'x' * 4096)\n"
        "    threading.Thread(target=fill).start()",
        "output limit|ended|Error|time limit",
    ),
    "socket": ("import socket\nsocket.create_connection(('127.0.0.1', PORT))", "Error"),
    "name of a host": ("import socket\nsocket.gethostbyname('example.org')", "rror"),
    "ssh keys": ("os.listdir(HOME + '/.ssh')", "FileNotFoundError|PermissionError"),
    "a file of the parent": ("open(SECRET).read()", "FileNotFoundError|PermissionError"),
    "the parent's memory": ("open(f'/proc/{PARENT}/mem').read(1)", "FileNotFoundError"),
    "written outside": ("open(TARGET, 'w').write('here')", "FileNotFoundError|PermissionError|Read-only"),
    "fork bomb": ("while True:\n    os.fork()", "BlockingIOError|time limit|ended"),
    "bomb of threads": (
        "import threading, time\nfor _ in range(1000):\n    threading.Thread(target=time.sleep, args=(9,)).start()",
        "RuntimeError",
    ),
    "memory bit by bit": ("kept = []\nwhile True:\n    kept.append(bytes(2**20))", "MemoryError"),
    "full disk": (
        "for n in range(64):\n    with open(f'/tmp/{n}', 'wb') as one:\n        one.write(bytes(2**19))",
        "OSError",
    ),
    "a child that stays": (f"if not os.fork():\n    os.execv('/usr/bin/sleep', ['{MARK}', '1000'])", ""),
    "a child that answers": ("pid = os.fork()\nprint('parent' if pid else 'child')", ""),
    "a thread that stays": ("import threading\ndef spin():\n    while True:\n        pass\n"
                            "threading.Thread(target=spin, daemon=True).start()", ""),
    "forged answers": (
        "for descriptor in range(3, 64):\n    try:\n        os.write(descriptor, b'{\"error\": 1}\\n' * 3)\n"
        "    except OSError:\n        pass",
        "ended: the answer",
    ),
    "a number without end": (
        "for descriptor in range(3, 64):\n    try:\n        os.write(descriptor, b'9' * 60000 + b'\\n')\n"
        "    except OSError:\n        pass",
        "ended: the answer",
    ),
    "deep answer": (
        "for descriptor in range(3, 64):\n    try:\n        os.write(descriptor, b'[' * 60000 + b'\\n')\n"
        "    except OSError:\n        pass",
        "ended: the answer",
    ),
    "half characters": (
        "import json\nsys.modules['json'].dumps = lambda value: '{\"stdout\": \"\\\\ud800\", \"stderr\": \"\", "
        "\"value\": \"\", \"error\": \"\", \"figures\": []}'",
        "",
    ),
    "closed descriptors": ("os.closerange(0, 64)", "ended|time limit"),
    "patched builtins": (
        "import builtins\nfor name in ('compile', 'isinstance', 'repr', 'exec', 'len'):\n"
        "    setattr(builtins, name, None)",
        "|rror|ended",
    ),
    "figures without end": (
        "import types, itertools\n"
        "sys.modules['matplotlib.pyplot'] = types.SimpleNamespace(get_fignums=itertools.count, "
        "figure=lambda n: types.SimpleNamespace(savefig=lambda path: None), close=print)",
        "MemoryError|time limit|ended|output limit",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def port():
    """Where this process listens, as a cell hopes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_cell_harms_nothing_but_its_session(sandbox: Sandbox, tmp_path: Path, port: int, name: str) -> None:
    source, reasons = HOSTILE[name]
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("of the parent")
    known = {
        "PARENT": os.getpid(),
        "PORT": port,
        "HOME": str(Path.home()),
        "SECRET": str(secret),
        "TARGET": str(target),
    }
    descriptors = sorted(os.listdir("/proc/self/fd"))
    limits = replace(QUICK, seconds=3.0)
    with Session(sandbox, limits) as session:
        session.run("import os, sys\n" + "".join(f"{key} = {value!r}\n" for key, value in known.items()))
        began = time.monotonic()
        found = session.run(source)
        assert time.monotonic() - began < 10
        assert found.error == "" if not reasons else any(one in found.error for one in reasons.split("|")), found
        following = session.run("'next'")  # whatever it says, it is a result
        for text in (found.stdout, found.stderr, found.value, found.error, following.value, following.error):
            text.encode()
            assert len(text) <= QUICK.output_bytes + 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"] and secret.read_text() == "of the parent"
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    for _ in range(100):
        if not marked_processes():
            return
        time.sleep(0.05)  # the kernel ends them after their namespace
    raise AssertionError("a process stays")


def test_the_number_of_files_is_bounded_without_bubblewrap(session: Session, sandbox: Sandbox) -> None:
    found = session.run("for n in range(2000): open(f'/tmp/{n}', 'w').close()")
    assert bool(found.error) == (sandbox.mechanism == "namespaces")


def test_sessions_run_side_by_side(sandbox: Sandbox) -> None:
    found: list[str] = []

    def run(number: int) -> None:
        with Session(sandbox, QUICK) as session:
            session.run(f"x = {number}\nimport time\ntime.sleep(0.2)")
            found.append(session.run("x").value)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["0", "1", "2", "3"]


def test_a_session_that_does_not_begin_leaves_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[SandboxedProcess] = []
    start = Sandbox.start

    def noted(self: Sandbox, *args: object) -> SandboxedProcess:
        started.append(start(self, *args))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr(Sandbox, "start", noted)
    with pytest.raises(SandboxError):
        Session(sandbox, QUICK, files={"a/b": b""})  # no such directory
    assert started[0].popen.returncode is not None
