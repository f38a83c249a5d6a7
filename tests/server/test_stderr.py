"""Standard error that is unread, closed, or full: the server continues, and reports later what was dropped."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from qwartet.server.stderr import MAX_WAITING_BYTES, UnreadStream, drain_stderr, unread_stderr
from tests.forked import Forked
from tests.server.running_server import wait_for

LINE = "a line of the log, some sixty characters long, number "
LOST = re.compile(rb"(\d+) log lines were dropped: stderr was not being read\n")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def read_now(descriptor: int, seconds: float = 0.5) -> bytes:
    """What comes within some time."""
    os.set_blocking(descriptor, False)
    received, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            received += os.read(descriptor, 1 << 20)
        except BlockingIOError:
            time.sleep(0.01)
    return received


def test_what_is_written_comes_in_order(pipe: tuple[int, int]) -> None:
    stream = UnreadStream(pipe[1])
    for number in range(500):
        print(f"{LINE}{number}", file=stream)
    stream.drain(10)
    lines = read_now(pipe[0]).decode().splitlines()
    assert lines == [f"{LINE}{number}" for number in range(500)]


def test_whoever_writes_never_waits_and_what_is_lost_is_counted(pipe: tuple[int, int]) -> None:
    stream = UnreadStream(pipe[1])
    num_lines = 50_000
    started = time.monotonic()
    for number in range(num_lines):
        stream.write(f"{LINE}{number:08}\n")
    assert time.monotonic() - started < 5
    received = read_now(pipe[0], 1)
    (num_lost,) = map(int, LOST.findall(received))
    lines = LOST.sub(b"", received).decode().splitlines()
    assert 0 < len(lines) == num_lines - num_lost and len(received) < MAX_WAITING_BYTES + (1 << 17)
    assert lines == [f"{LINE}{number:08}" for number in range(len(lines))], "the first ones are kept, whole"
    stream.write("on again\n")
    assert read_now(pipe[0]).endswith(b"on again\n")


def test_a_reader_that_is_gone_or_a_full_disk_is_no_error(pipe: tuple[int, int]) -> None:
    with open("/dev/full", "wb") as full:
        os.close(pipe[0])
        for descriptor in (pipe[1], full.fileno()):
            stream = UnreadStream(descriptor)
            for _ in range(3):
                print(LINE, file=stream)
                stream.drain(5)


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    stream = UnreadStream(pipe[1])
    for number in range(5000):
        print(f"{LINE}{number}", file=stream)
    assert read_now(pipe[0], 1).count(b"\n") == 5000


def test_letters_that_are_none_are_written_escaped(pipe: tuple[int, int]) -> None:
    stream = UnreadStream(pipe[1])
    print("\ud800é", file=stream)
    stream.drain(5)
    assert read_now(pipe[0]) == "\\ud800é\n".encode()


def test_the_log_warnings_and_threads_write_to_it_for_a_while(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(pipe[1], "w", closefd=False) as real:
        monkeypatch.setattr(sys, "stderr", real)
        with unread_stderr():
            handler = logging.StreamHandler()
            handler.emit(logging.makeLogRecord({"msg": "from the log"}))
            thread = threading.Thread(target=lambda: print("from a thread", file=sys.stderr))
            thread.start()
            thread.join()
            assert not sys.stderr.isatty() and sys.stderr.fileno() == pipe[1]
            drain_stderr()
            assert read_now(pipe[0], 0.1) == b"from the log\nfrom a thread\n"
            print("the last", file=sys.stderr)
        assert sys.stderr is real and read_now(pipe[0], 0.1) == b"the last\n"


def test_without_a_file_behind_it_nothing_is_changed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.stderr
    with unread_stderr():
        assert sys.stderr is before
    monkeypatch.setattr(sys, "stderr", None)
    with unread_stderr():
        assert sys.stderr is None


def test_a_server_whose_output_nobody_reads_serves_on_and_stops(tmp_path: Path, pipe: tuple[int, int]) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    socket_path = tmp_path / "s"
    nothing = os.open(os.devnull, os.O_RDONLY)
    process = Forked(["serve", "--uds", str(socket_path)], dict(os.environ), (nothing, pipe[1], pipe[1]))
    os.close(nothing)
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket_path)), base_url="http://x", timeout=30
        ) as client:

            def is_ready() -> bool:
                try:
                    return client.get("/health").status_code == 200
                except httpx.TransportError:
                    return False

            wait_for(is_ready, 60)
            for _ in range(400):  # 60 KB of log
                assert client.get("/version" + "a" * 150).status_code == 404
            body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
    assert b"GET" in read_now(pipe[0])
