"""Our server as a process of its own, to be measured from outside."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qwartet.errors import EngineFailedError

START_TIMEOUT_S = 900.0  # a large checkpoint is repacked at its first start
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.1


@contextmanager
def server_process(model: str, options: Sequence[str]) -> Iterator[str]:
    """Runs `qwartet serve MODEL` on a free port of loopback until the context ends; its URL, once it is ready.

    EngineFailedError, with its last output, if it does not start.
    """
    command = [sys.executable, "-m", "qwartet.cli.main", "serve", model, "--port", "0", *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    assert process.stderr is not None
    written: deque[str] = deque(maxlen=20)
    try:
        url = process.stderr.readline()
        written.append(url)
        reader = threading.Thread(target=written.extend, args=(process.stderr,), daemon=True)
        reader.start()
        url = url.partition(" ")[0]
        _wait_until_ready(process, url, written)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[str], url: str, written: deque[str]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None or not url.startswith("http"):
            break
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except (OSError, urllib.error.HTTPError):  # not open yet, or 503 while it loads
            time.sleep(_POLL_S)
    last = " ".join("".join(written).split())[-500:]
    raise EngineFailedError(f"the server did not start ({last}); run `qwartet serve` with the same model to see why")
