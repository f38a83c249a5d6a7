"""What a process can do no more once it is confined."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qwartet.convert import confinement
from qwartet.convert.confinement import NotConfinedError
from tests.golden_data import REPOSITORY

TRIES = {
    "socket": "socket.socket()",
    "udp": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "unix": "socket.socket(socket.AF_UNIX)",
    "pair": "socket.socketpair()",
    "inherited": "inherited.connect(('127.0.0.1', 9))",
    "program": "os.execv('/bin/true', ['true'])",
    "child": "subprocess.run(['/bin/true'], check=True)",
    "signal": "os.kill(os.getppid(), 0)",
    "memory": "bytearray(2**31)",
    "file": "open(sys.argv[1], 'wb', buffering=0).write(bytes(2**22)) == 2**22 or fail()",
    "limits": "resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30)) if os.getuid() else fail()",
}
CODE = """
import os, resource, signal, socket, subprocess, sys
from qwartet.convert.confinement import confine
def fail(): raise PermissionError
inherited = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
confine(more_memory=2**28, seconds=60, file_bytes=2**20)
for line in sys.stdin.read().splitlines():
    try:
        eval(line)
        print("done")
    except BaseException as error:
        print(type(error).__name__)
"""


def test_a_confined_process_has_no_network_and_starts_no_program(tmp_path) -> None:
    command = [sys.executable, "-c", CODE, str(tmp_path / "file")]
    ended = subprocess.run(
        command, input="\n".join(TRIES.values()), capture_output=True, text=True, timeout=60, cwd=REPOSITORY
    )
    assert ended.returncode == 0, ended.stderr
    outcomes = dict(zip(TRIES, ended.stdout.split(), strict=True))
    refused = {"memory": "MemoryError", "limits": outcomes["limits"]}
    assert outcomes == {name: refused.get(name, "PermissionError") for name in TRIES}
    assert (tmp_path / "file").stat().st_size <= 2**20


def test_time_without_end_ends() -> None:
    code = "from qwartet.convert.confinement import confine\n"
    code += "confine(more_memory=2**28, seconds=1, file_bytes=0)\nwhile 1: 1"
    ended = subprocess.run([sys.executable, "-c", code], timeout=60, cwd=REPOSITORY)
    assert ended.returncode < 0


def test_a_system_without_such_filters_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(confinement.platform, "system", lambda: "Darwin")
    with pytest.raises(NotConfinedError, match="Darwin"):
        confinement._refuse_calls()
