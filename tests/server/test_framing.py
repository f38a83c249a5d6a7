"""SEC-08 too: body framing is bounded, per body and per turn of the event loop."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from qwartet import LLM
from qwartet.server import connection
from qwartet.server.access import Access
from qwartet.server.limits import MAX_CHUNKS, MAX_HEADERS
from tests.server.attack import CHAT, Answer, connect, longest_stall_s, post, read_all, request, resident_bytes, send
from tests.server.running_server import HELLO, RunningServer, wait_for

KEY = "key-of-somebody"
WITH_KEY = f"Authorization: Bearer {KEY}"
CHUNKED = ["Content-Type: application/json", "Transfer-Encoding: chunked"]
BODY = {"messages": HELLO, "max_tokens": 1}
STALL_S = 0.1  # mostly the test's own thread, which shares the interpreter
FLOOD = b"1\r\n \r\n" * 200_000


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture
def server(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    monkeypatch.setattr(connection, "LINGER_S", 0.5)
    with RunningServer(llm, access=Access(api_keys=[KEY])) as running:
        yield running
        wait_for(running.is_idle)
        wait_for(lambda: running.call(lambda: running.num_connections) == 0)


def chunked(*lines: str, method: str = "POST", path: str = CHAT) -> bytes:
    return request(method, path, *CHUNKED, *lines).replace(b"Connection: close\r\n", b"")


def status_of(server: RunningServer, data: bytes) -> int:
    return send(server, data).status


FLOODS = {
    "without a key": (chunked(), 401),
    "of a path that takes none": (chunked(method="GET", path="/health"), 200),
    "of no path": (chunked(WITH_KEY, path="/nothing"), 404),
    "of another type": (chunked(WITH_KEY).replace(b"application/json", b"text/plain"), 415),
    "with a key": (chunked(WITH_KEY), 413),
}


@pytest.mark.parametrize(("head", "status"), FLOODS.values(), ids=FLOODS)
def test_sec_08_a_body_in_chunks_of_one_byte_stalls_nobody(server: RunningServer, head: bytes, status: int) -> None:
    answers: list[Answer] = []
    assert longest_stall_s(server, lambda: answers.append(send(server, head + FLOOD)), good=STALL_S) < STALL_S
    assert {answer.status for answer in answers} == {status}
    if status == 413:
        assert answers[0].error["code"] == "too_many_chunks" and str(MAX_CHUNKS) in answers[0].error["message"]


def test_sec_08_four_clients_that_flood_stall_nobody_either(server: RunningServer) -> None:
    def flood() -> None:
        threads = [threading.Thread(target=send, args=(server, head + FLOOD)) for head, _ in FLOODS.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert longest_stall_s(server, flood, good=0.2) < 0.2


def test_sec_08_a_body_in_many_chunks_is_read_up_to_the_limit(server: RunningServer) -> None:
    body = json.dumps(BODY).encode()
    body += b" " * (MAX_CHUNKS - len(body))
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    assert status_of(server, chunked(WITH_KEY, "Connection: close") + chunks + b"0\r\n\r\n") == 200
    assert status_of(server, chunked(WITH_KEY) + chunks + b"1\r\n \r\n0\r\n\r\n") == 413
    large = body + b" " * 500_000  # with chunks of normal size nothing exceeds the limit
    pieces = [large[start : start + 1000] for start in range(0, len(large), 1000)]
    data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    assert status_of(server, chunked(WITH_KEY, "Connection: close") + data + b"0\r\n\r\n") == 200


@pytest.mark.parametrize(
    "framing",
    [
        b"0\r\n" + b"a:\r\n" * 15_000 + b"\r\n",
        b"0\r\n" + b"a:\r\n" * 200_000 + b"\r\n",
        b"1;" + b"a" * 60_000 + b"\r\n \r\n0\r\n\r\n",
        (b"1;" + b"a;" * 30 + b"\r\n \r\n") * 20_000 + b"0\r\n\r\n",
        (b"0" * 15 + b"1\r\n \r\n") * 50_000,
        b"fffffffffffffffff\r\n" + b" " * 3_000_000,
    ],
    ids=["trailers", "endless trailers", "a long extension", "extensions", "zeros", "a huge size"],
)
def test_sec_08_no_way_to_frame_a_body_stalls_anybody(server: RunningServer, framing: bytes) -> None:
    for key in ((), (WITH_KEY,)):
        data = chunked(*key, "Connection: close") + framing
        found: list[int] = []
        assert (
            longest_stall_s(server, lambda data=data, found=found: found.append(status_of(server, data)), good=0.2)
            < 0.2
        )
        assert set(found) <= {400, 401, 413}


def test_sec_08_a_flood_is_not_read_faster_than_it_is_parsed(server: RunningServer) -> None:
    piece = b"64\r\n" + b" " * 100 + b"\r\n"
    data = chunked(WITH_KEY) + piece * 60_000  # 6 MB; the server may read 2 MB
    waiting: list[int] = []
    parse = connection.Connection._parse_some

    def watch(self: connection.Connection) -> None:
        waiting.append(len(self._backlog))
        parse(self)

    connection.Connection._parse_some = watch  # type: ignore[method-assign]
    try:
        assert status_of(server, data) == 413
    finally:
        connection.Connection._parse_some = parse  # type: ignore[method-assign]
    assert len(waiting) > 20 and max(waiting) <= 512 << 10


def test_sec_08_a_body_byte_by_byte_takes_little_memory(server: RunningServer) -> None:
    body = json.dumps(BODY).encode() + b" " * 20_000
    head = post(CHAT, body, WITH_KEY).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    before = resident_bytes()
    with connect(server) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.sendall(head)
        for byte in body:
            one.sendall(bytes([byte]))
        assert read_all(one).status == 200
    assert resident_bytes() - before < 8 << 20


def test_sec_08_requests_in_a_row_take_turns_with_others(server: RunningServer) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    row = one * 2000 + request("GET", "/health")
    found: list[int] = []
    act = lambda: found.append(send(server, row).raw.count(b"HTTP/1.1 200"))  # noqa: E731
    assert longest_stall_s(server, act, good=STALL_S) < STALL_S
    assert set(found) == {2001}


def test_sec_08_a_row_that_nobody_reads_the_answers_of_is_not_kept(server: RunningServer) -> None:
    row = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5000
    before = resident_bytes()
    with connect(server) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(1)
        with suppress(TimeoutError, ConnectionError):
            for _ in range(200):  # 40 MB
                one.sendall(row)
        assert resident_bytes() - before < 16 << 20


def test_sec_08_very_many_header_lines_are_counted_before_they_are_parsed(server: RunningServer) -> None:
    for lines in (b"a:\r\n" * 15_000, b"\r\n" * 100_000, b" folded\r\n" * 7000):
        data = b"GET /health HTTP/1.1\r\nHost: localhost\r\nb: c\r\n" + lines + b"\r\n"
        assert lines.count(b"\n") > MAX_HEADERS
        assert longest_stall_s(server, lambda data=data: send(server, data), good=STALL_S) < STALL_S


# Data after an answer


def test_sec_08_what_comes_behind_an_early_answer_is_not_parsed(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 30)
    with connect(server) as one:
        one.sendall(chunked())
        answer = read_all(one)  # the server has shut down its side
        assert answer.status == 401 and ("connection", "close") in answer.headers
        started, used = time.monotonic(), time.process_time()
        with suppress(ConnectionError):
            for _ in range(50):
                one.sendall(FLOOD)  # 60 MB; parsing it took minutes
            one.sendall(b"0\r\n\r\n" + request("GET", "/version", WITH_KEY))
        assert time.process_time() - used < 5 and time.monotonic() - started < 20
        assert one.recv(100) == b"", "what came behind was taken for a request"


def test_sec_08_an_early_answer_is_not_lost_by_a_client_that_is_still_sending(server: RunningServer) -> None:
    for lines in ([], ["Connection: close"]):
        head = request("POST", CHAT, *CHUNKED[:1], "Content-Length: 1000000", *lines).replace(
            b"Connection: close\r\n", b"", 1
        )
        with connect(server) as one:
            one.sendall(head)
            for _ in range(20):
                with suppress(ConnectionError):
                    one.sendall(b" " * 10_000)
                time.sleep(0.005)
            one.settimeout(5)
            assert one.recv(1000).startswith(b"HTTP/1.1 401")


def test_sec_08_a_client_that_never_stops_sending_is_cut_off(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.2)
    with connect(server) as one, pytest.raises(ConnectionError):
        one.sendall(chunked())
        end = time.monotonic() + 10
        while time.monotonic() < end:
            one.sendall(b"1\r\n \r\n")
            time.sleep(0.001)
