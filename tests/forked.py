"""`qwartet` in separate processes that start with torch loaded: loading it takes longer than most tests.

The first test that starts one creates a parent, which loads third-party packages, none of Qwartet's, and forks for each
`Forked`. The child then does what `python -m qwartet.cli.main` does, in its own environment and on its own files,
and exits like any interpreter. What an interpreter reads from its environment as it starts (PYTHON..., LC_...) is
the parent's: tests of that, and of imports, start a plain process.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
# None of them reads settings from the environment as it is loaded.
LOADED = ("torch", "safetensors.torch", "tiktoken", "llguidance", "fastapi", "uvicorn", "uvloop", "prometheus_client")
MAX_REQUEST_BYTES = 2**17


class Forked:
    """A running `qwartet`, used like a subprocess.Popen; `files` become its standard input, output and error."""

    def __init__(
        self, arguments: list[str], env: dict[str, str], files: tuple[int, int, int], *, on_terminal: bool = False
    ) -> None:
        self._told, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with told:
            request = json.dumps([arguments, env, on_terminal]).encode()
            socket.send_fds(_parent(), [request], [*files, told.fileno()])
        self.pid = int(self._told.recv(100))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or below 0 the signal that ended it; subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = int(self._told.recv(100))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired("qwartet", timeout or 0.0) from None
            self._told.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, but its waiter has not reported that yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Piped(Forked):
    """The same on pipes, or with `stdout` as its standard output; killed at the end of the block if it still runs."""

    def __init__(self, arguments: list[str], env: dict[str, str], stdout: int | None = None) -> None:
        (stdin, to_child), (from_child, to_us), (errors, stderr) = os.pipe(), os.pipe(), os.pipe()
        super().__init__(arguments, env, (stdin, to_us if stdout is None else stdout, stderr))
        for file in (stdin, to_us, stderr):
            os.close(file)
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(to_child, "wb"),
            os.fdopen(from_child, "rb"),
            os.fdopen(errors, "rb"),
        )

    def __enter__(self) -> Piped:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        for file in (self.stdin, self.stdout, self.stderr):
            file.close()

    def communicate(self, stdin: bytes = b"") -> tuple[bytes, bytes]:
        """Its standard output and standard error until it ends."""
        with ThreadPoolExecutor(2) as pool:
            written = [pool.submit(file.read) for file in (self.stdout, self.stderr)]
            with suppress(BrokenPipeError):  # it ended before it had read everything
                self.stdin.write(stdin)
                self.stdin.close()
            self.wait(120)
            return written[0].result(), written[1].result()


def run_forked(
    arguments: list[str], env: dict[str, str], stdin: bytes = b"", stdout: int | None = None
) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and standard error of a `qwartet`."""
    with Piped(arguments, env, stdout) as process:
        written = process.communicate(stdin)
        return process.wait(), *written


@cache
def _parent() -> socket.socket:
    """A connection to the parent, which ends when this process does."""
    connection, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(others.fileno())],
        pass_fds=[others.fileno()],
        cwd=REPOSITORY,
        env=kept | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C must not stop it
    )
    others.close()
    atexit.register(lambda: (connection.close(), parent.wait()))
    return connection


def main(connection: socket.socket) -> None:
    """Forks for each request until there are no more; each child returns from here when its `qwartet` has ended."""
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()  # otherwise each child visits all of it as it exits, which takes as long as most of them run
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the processes that wait for the children are reaped by the system
    while True:
        request, files, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 4)
        if not request:
            return
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, told = files
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        os.write(told, str(child).encode())
        os.write(told, str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
    os.close(told)
    arguments, env, on_terminal = json.loads(request)
    _run(arguments, streams, env, on_terminal)


def _run(arguments: list[str], streams: list[int], env: dict[str, str], on_terminal: bool) -> None:
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        os.dup2(streams[number], number)
        os.close(streams[number])
        same = {"encoding": getattr(sys, name).encoding, "errors": getattr(sys, name).errors, "newline": "\n"}
        setattr(sys, name, open(number, mode, buffering=1 if number == 2 else -1, closefd=False, **same))  # noqa: SIM115
        setattr(sys, f"__{name}__", getattr(sys, name))
    os.setsid()
    if on_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C reaches a process only through its controlling terminal
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["qwartet", *arguments]
    runpy.run_module("qwartet.cli.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
