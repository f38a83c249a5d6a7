"""Shared by the examples with a server: `with running_server() as url:` starts one with the bundled model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


def free_port() -> int:
    """An unused port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running_server(*options: str) -> Iterator[str]:
    """Starts `qwartet serve`, yields its address once it answers, and stops it afterwards.

    Set QWARTET_PYTHON if Qwartet is installed for another interpreter than this one.
    """
    port, python = free_port(), os.environ.get("QWARTET_PYTHON", sys.executable)
    command = [python, "-m", "qwartet", "serve", "--port", str(port), "--log-level", "warning", *options]
    with subprocess.Popen(command) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit("the server did not start")
