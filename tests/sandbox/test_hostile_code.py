"""SEC-22: whatever the candidate does, it does not pass, the parent is unharmed, and nothing of it is left."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from qwartet.sandbox.limits import Limits
from qwartet.sandbox.verdict import Problem, Verdict, judge
from qwartet.sandbox.walls import Sandbox
from tests.sandbox.marked import MARK, marked_processes

SQUARE = Problem(
    prompt='def f(x):\n    """ The square. """\n',
    entry_point="f",
    test="def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == 9\n",
)
QUICK = Limits(seconds=20.0, cpu_seconds=1)  # a busy machine needs the time; candidates that sleep get less
SLEEPERS = ("endless sleep", "closed descriptors")

# Each would pass if it got what it tries to get: the right answer comes after it, or the tests are never asked.
HOSTILE = {
    # resources
    "fork bomb": ("def f(x):\n    while True:\n        os.fork()", "exception|ended|time limit"),
    "bomb of threads": (
        "import threading, time\ndef f(x):\n    for _ in range(1000):\n"
        "        threading.Thread(target=time.sleep, args=(9,)).start()\n    return x * x",
        "exception",
    ),
    "1 GB": ("def f(x):\n    bytearray(2**30)\n    return x * x", "memory limit"),
    "memory bit by bit": ("kept = []\ndef f(x):\n    while True:\n        kept.append(bytes(2**20))", "memory limit"),
    "endless loop": ("def f(x):\n    while True:\n        pass", "time limit"),
    "endless loop at import": ("while True:\n    pass", "time limit"),
    "endless sleep": ("import time\ndef f(x):\n    time.sleep(1000)", "time limit"),
    "ignored time limit": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ndef f(x):\n    while True:\n        pass",
        "ended|time limit",
    ),
    "2 MB file": ("def f(x):\n    open('/tmp/a', 'wb').write(bytes(2**21))\n    return x * x", "exception"),
    "32 MB of files": (
        "def f(x):\n    for n in range(64):\n        with open(f'/tmp/{n}', 'wb') as one:\n"
        "            one.write(bytes(2**19))\n    return x * x",
        "exception",
    ),
    "many open files": ("def f(x):\n    kept = [open('/dev/null') for _ in range(100)]\n    return x * x", "exception"),
    "raised limits": (
        "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n    return x * x",
        "exception",
    ),
    "endless recursion": ("def f(x):\n    return f(x)", "exception"),
    "overflown stack": (
        "sys.setrecursionlimit(10**9)\ndef f(x):\n    return [f(x)]",
        "exception|ended|memory limit|time limit",
    ),
    # the machine
    "socket": (
        "import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', PORT))\n    return x * x",
        "exception",
    ),
    "socket by hand": (
        "import ctypes\ndef f(x):\n    assert ctypes.CDLL(None).socket(2, 1, 0) >= 0\n    return x * x",
        "exception",
    ),
    "ssh keys": ("def f(x):\n    os.listdir(HOME + '/.ssh')\n    return x * x", "exception"),
    "a file of the parent": ("def f(x):\n    open(SECRET).read()\n    return x * x", "exception"),
    "password file": ("def f(x):\n    open('/etc/passwd').read()\n    return x * x", "exception"),
    "the parent's memory": ("def f(x):\n    open(f'/proc/{PARENT}/mem').read(1)\n    return x * x", "exception"),
    "killed parent": ("def f(x):\n    os.kill(PARENT, 9)\n    return x * x", "exception"),
    "killed everything": ("def f(x):\n    os.kill(-1, 9)\n    return x + 1", "exception|ended|wrong result"),
    "killed first process": ("def f(x):\n    os.kill(1, 9)\n    return x + 1", "exception|ended|wrong result"),
    "written outside": ("def f(x):\n    open(TARGET, 'w').write('here')\n    return x * x", "exception"),
    "written in the root": ("def f(x):\n    open('/a', 'w').write('here')\n    return x * x", "exception"),
    "written in the library": (
        "def f(x):\n    open(os.path.dirname(os.__file__) + '/a', 'w').write('here')\n    return x * x",
        "exception",
    ),
    "another namespace": (
        "import ctypes\ndef f(x):\n    assert ctypes.CDLL(None).unshare(0x10000000) == 0\n    return x * x",
        "exception",
    ),
    "root": ("def f(x):\n    os.setuid(0)\n    return x * x", "exception"),
    "a child that stays": (
        f"def f(x):\n    if not os.fork():\n        os.execv('/usr/bin/sleep', ['{MARK}', '1000'])\n    return x + 1",
        "wrong result",
    ),
    # the verdict
    "os._exit at import": ("os._exit(0)", "ended"),
    "os._exit": ("def f(x):\n    os._exit(0)", "ended"),
    "sys.exit at import": ("sys.exit(0)", "exception"),
    "sys.exit": ("def f(x):\n    sys.exit(0)", "exception"),
    "closed descriptors": (
        "import time\ndef f(x):\n    os.closerange(0, 64)\n    time.sleep(1000)",
        "ended|time limit",
    ),
    "patched builtins": (
        "import builtins\nfor name in ('AssertionError', 'Exception', 'isinstance', 'repr', 'ascii', 'exec'):\n"
        "    setattr(builtins, name, lambda *args: True)\ndef f(x):\n    return 'wrong'",
        "wrong result|ended|exception",
    ),
    "a test of its own": ("def check(candidate):\n    pass\ndef f(x):\n    return 'wrong'", "wrong result"),
    "another main module": (
        "import __main__\n__main__.plain = __main__.short = lambda value: 4\ndef f(x):\n    return 'wrong'",
        "wrong result",
    ),
    "forged report": (
        "def f(x):\n    for descriptor in range(64):\n        for line in (b'P\\n', b'passed\\n', b'ready\\n'):\n"
        "            try:\n                os.write(descriptor, line)\n"
        "            except OSError:\n                pass\n"
        "    return 'wrong'",
        "wrong result",
    ),
    "forged report at import": (
        "for descriptor in range(64):\n    try:\n        os.write(descriptor, b'R\\nP\\nP\\nP\\n')\n"
        "    except OSError:\n        pass\nos._exit(0)",
        "wrong result|ended",
    ),
    "printed verdicts": ("def f(x):\n    print('passed\\nP\\n' * 100000)\n    return 'wrong'", "wrong result"),
    "always equal": (
        "class Same:\n    def __eq__(self, other):\n        return True\ndef f(x):\n    return Same()",
        "exception|wrong result",
    ),
    "always equal number": (
        "class Same(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\n"
        "def f(x):\n    return Same(7)",
        "wrong result",
    ),
    "a repr that lies": (
        "class Liar:\n    def __repr__(self):\n        return '4'\ndef f(x):\n    return Liar()",
        "exception|wrong result",
    ),
    "a number's repr that lies": (
        "class Liar(int):\n    def __repr__(self):\n        return '4'\ndef f(x):\n    return Liar(7)",
        "wrong result",
    ),
    "a repr that is code": (
        "import builtins\nbuiltins.ascii = lambda value: \"__import__('os')._exit(0)\"\ndef f(x):\n    return x",
        "wrong result",
    ),
    "a class that claims to be another": (
        "class Claims:\n    __class__ = int\n    __eq__ = lambda *_: True\ndef f(x):\n    return Claims()",
        "exception|wrong result",
    ),
    "huge number": ("def f(x):\n    return 10**100000", "exception"),
    "digits without end": (
        "import builtins\nbuiltins.ascii = lambda value: '9' * 500000\ndef f(x):\n    return 4",
        "wrong result",
    ),
    "deep literal": (
        "import builtins\nbuiltins.ascii = lambda value: '[' * 100000 + ']' * 100000\ndef f(x):\n    return 4",
        "wrong result|ended|exception",
    ),
    "deep list": (
        "def f(x):\n    found = []\n    for _ in range(10**5):\n        found = [found]\n    return found",
        "exception",
    ),
    "list that holds itself": ("def f(x):\n    found = []\n    found.append(found)\n    return found", "exception"),
    "huge answer": ("def f(x):\n    return 'x' * 2**22", "output limit"),
    "answer without end": ("def f(x):\n    import itertools\n    return itertools.count()", "wrong result|exception"),
    "exception that lies": (
        "class AssertionError(BaseException):\n    def __str__(self):\n        os._exit(0)\ndef f(x):\n"
        "    raise AssertionError",
        "ended",
    ),
    "exit in an exception": ("def f(x):\n    raise SystemExit(0)", "exception"),
    "generator's exit": ("def f(x):\n    raise GeneratorExit", "exception"),
    "no function": ("g = 1", "exception"),
    "syntax error": ("def f(x:", "syntax error"),
    "unfinished string": ("def f(x):\n    return '''", "syntax error"),
    "zero byte": ("def f(x):\n    return \0", "syntax error"),
    "deep program": ("f = " + "(" * 100000 + ")" * 100000, "syntax error|ended"),
    "unpaired surrogate": ("def f(x):\n    return '\\ud800'", "wrong result"),
}  # fmt: skip


@pytest.fixture(scope="module")
def port():
    """Where this process listens, as a candidate hopes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_fails_and_leaves_nothing(sandbox: Sandbox, tmp_path: Path, port: int, name: str) -> None:
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
    head = "import os, sys\n" + "".join(f"{key} = {value!r}\n" for key, value in known.items())
    descriptors = sorted(os.listdir("/proc/self/fd"))
    limits = replace(QUICK, seconds=2.0) if name in SLEEPERS else QUICK
    verdict = judge(sandbox, SQUARE, f"{head}{source}\n", limits)
    assert not verdict.passed
    assert verdict.reason in reasons.split("|"), verdict
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"] and secret.read_text() == "of the parent"
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    for _ in range(100):
        if not marked_processes():
            return
        time.sleep(0.05)  # the kernel ends them after their namespace
    raise AssertionError("a process stays")


def test_the_right_function_passes_whatever_it_prints(sandbox: Sandbox) -> None:
    source = "def f(x):\n    print('x' * 10**6)\n    return x * x\n"
    assert judge(sandbox, SQUARE, source, QUICK) == Verdict("passed")


def test_a_function_that_is_right_once_fails(sandbox: Sandbox) -> None:
    verdict = judge(sandbox, SQUARE, "def f(x):\n    return 4\n", QUICK)
    assert verdict.reason == "wrong result" and verdict.message.startswith("AssertionError")


def test_an_exception_is_named_with_its_message(sandbox: Sandbox) -> None:
    verdict = judge(sandbox, SQUARE, "def f(x):\n    raise ValueError('no\\nsuch \\x1b[31mthing')\n", QUICK)
    assert verdict == Verdict("exception", "ValueError: no such ␛[31mthing")


def test_candidates_do_not_meet(sandbox: Sandbox) -> None:
    """What one leaves in /tmp the next does not find, not even at the same time."""
    source = "import os, time\ndef f(x):\n    if os.listdir('/tmp') and x > 0:\n        return 'not alone'\n"
    source += "    open('/tmp/mine', 'w').write('here')\n    time.sleep(0.2)\n    return x * x\n"
    verdicts: list[Verdict] = []
    threads = [
        threading.Thread(target=lambda: verdicts.append(judge(sandbox, SQUARE, source, QUICK))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [Verdict("passed")] * 3
