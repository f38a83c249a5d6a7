"""Shared by the Python client scripts: where the servers are, and how a use reports success.

@use
def chat() -> None: ...            raises where the client or the server does not do as it should

run()                              a line of JSON for each use
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BASE_URL = os.environ["CLIENTS_BASE_URL"]  # ends in /v1
BUSY_URL = os.environ["CLIENTS_BUSY_URL"]  # of a server that runs one request and lets one wait
API_KEY = os.environ["CLIENTS_API_KEY"]
MODEL = "demo"
HELLO = "Hello! I can"  # how the bundled model answers a greeting
WEATHER = "What is the weather in Oslo?"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
TOO_LONG = "one two three " * 1500  # more than the context of the bundled model
_uses: list[Callable[[], Any]] = []


def run_example(name: str) -> None:
    """An example of the project, in this client's environment; it prints how the bundled model adds."""
    script = Path(os.environ["CLIENTS_EXAMPLES"], name)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and "23 + 45 = 68" in ran.stdout, ran.stderr[-1000:]


def use(function: Callable[[], Any]) -> Callable[[], Any]:
    """Registers a use, synchronous or not, under its name."""
    _uses.append(function)
    return function


def run() -> None:
    """Does all of them, whatever becomes of each; those that are not synchronous in one loop, as connections need."""
    loop = asyncio.new_event_loop()
    for function in _uses:
        started_s, detail = time.monotonic(), ""
        try:
            loop.run_until_complete(function()) if inspect.iscoroutinefunction(function) else function()
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[1]
            detail = f"line {place.lineno}: {type(error).__name__}: {error}"[:1500]
        seconds = round(time.monotonic() - started_s, 2)
        print(
            json.dumps({"use": function.__name__, "ok": not detail, "detail": detail, "seconds": seconds}), flush=True
        )


def raises(kind: type[BaseException], work: Callable[[], Any], words: str = "") -> None:
    """AssertionError unless `work` raises this error with these words."""
    try:
        work()
    except kind as error:
        assert words.lower() in str(error).lower(), f"{words!r} is not in {error}"
    else:
        raise AssertionError(f"no {kind.__name__}")


@contextmanager
def busy() -> Iterator[str]:
    """The base URL of a server that answers the next request 429, and serves it when it comes again."""
    held = [_long_answer() for _ in range(2)]
    held[0].readline()  # runs; the other one waits
    before = _num_refused()

    def release() -> None:
        deadline = time.monotonic() + 60
        while _num_refused() == before and time.monotonic() < deadline:
            time.sleep(0.05)
        for one in held:
            one.close()

    releasing = threading.Thread(target=release)
    releasing.start()
    try:
        yield BUSY_URL
        assert _num_refused() > before, "the client was never refused"
    finally:
        releasing.join()


def _long_answer() -> Any:
    body = {"prompt": "one two", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    headers = {"content-type": "application/json", "authorization": f"Bearer {API_KEY}"}
    request = urllib.request.Request(f"{BUSY_URL}/completions", json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=60)


def _num_refused() -> float:
    url = BUSY_URL.removesuffix("/v1") + "/metrics"
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {API_KEY}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if 'status="429"' in line)
