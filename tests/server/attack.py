"""Attacks: bytes that no client library sends, and how long other clients wait meanwhile."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.server.running_server import RunningServer

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ATTEMPTS = 5  # others use the machine of the tests: what is slow of itself is slow every time


@dataclass(frozen=True)
class Answer:
    """The first response on a connection."""

    raw: bytes  # everything that came

    @property
    def status(self) -> int:
        return int(self.raw[9:12]) if self.raw.startswith(b"HTTP/1.1 ") else 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    @property
    def body(self) -> bytes:
        length = dict(self.headers).get("content-length")
        return self.raw.partition(b"\r\n\r\n")[2][: None if length is None else int(length)]

    @property
    def error(self) -> dict[str, Any]:
        """The error object, whose shape is checked."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"} and len(error["message"]) < 700
        return dict(error)


def request(method: str, target: str | bytes, *lines: str | bytes, body: bytes = b"", host: str = "localhost") -> bytes:
    """A request that asks for the connection to be closed; `lines` are more headers, as they stand."""
    encoded = [line.encode("latin-1") if isinstance(line, str) else line for line in lines]
    target = target.encode() if isinstance(target, str) else target
    first = b"%b %b HTTP/1.1" % (method.encode(), target)
    return b"\r\n".join([first, f"Host: {host}".encode(), b"Connection: close", *encoded, b"", b""]) + body


def post(target: str, body: Any, *lines: str | bytes, content_type: str | None = "application/json") -> bytes:
    """A POST of bytes, or of JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    typed = [] if content_type is None else [f"Content-Type: {content_type}"]
    return request("POST", target, *typed, f"Content-Length: {len(raw)}", *lines, body=raw)


def connect(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def read_all(connection: socket.socket) -> Answer:
    """What comes until the server closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    return Answer(received)


def send(server: RunningServer, data: bytes) -> Answer:
    """The answer to some bytes."""
    with connect(server) as connection:
        with suppress(ConnectionError):  # refused before it was all sent
            connection.sendall(data)
        return read_all(connection)


class Stopwatch:
    """Seconds that are this process's own.

    On a busy machine it waits for a processor, too: what it computed itself counts in full, of other time a tenth, so
    that a wait that should not be there is still seen.
    """

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()

    def seconds(self) -> float:
        wall_s, cpu_s = time.monotonic() - self._wall_s, time.process_time() - self._cpu_s
        return min(wall_s, max(cpu_s, wall_s / 10))


@contextmanager
def heartbeat(server: RunningServer) -> Iterator[Callable[[], float]]:
    """What gives the longest time, in seconds, in which the server's loop served nobody."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            pause = Stopwatch()
            await asyncio.sleep(0.002)
            longest = max(longest, pause.seconds())

    task = asyncio.run_coroutine_threadsafe(beat(), server.loop)
    try:
        yield lambda: longest
    finally:
        task.cancel()


def longest_stall_s(server: RunningServer, act: Callable[[], object], good: float) -> float:
    """The longest pause of the server's loop while something is done, at best of several times until it is `good`."""
    stalls = []
    for _ in range(ATTEMPTS):
        with heartbeat(server) as longest:
            act()
            stalls.append(longest())
        if stalls[-1] < good:
            break
    return min(stalls)


def seconds_of(act: Callable[[], object], good: float) -> float:
    """The time that something takes, at best of several times until it is `good`."""
    times = []
    for _ in range(ATTEMPTS):
        stopwatch = Stopwatch()
        act()
        times.append(stopwatch.seconds())
        if times[-1] < good:
            break
    return min(times)


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
