"""SEC-08, HTTP itself: sizes, slow clients, two lengths, odd requests. Each is answered or cut off; no one waits."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from qwartet import LLM
from qwartet.server import connection
from qwartet.server.access import LOOPBACK_HOSTS, Access
from qwartet.server.limits import MAX_HEADER_BYTES, MAX_HEADERS, Limits
from tests.server.attack import (
    CHAT,
    COMPLETION,
    Answer,
    connect,
    longest_stall_s,
    post,
    read_all,
    request,
    resident_bytes,
    seconds_of,
    send,
)
from tests.server.running_server import HELLO, RunningServer, wait_for

BODY = {"messages": HELLO, "max_tokens": 1}
LIMITS = Limits(max_body_bytes=100_000, max_connections=4)
IMPATIENT = replace(LIMITS, body_timeout_s=0.3)  # for bodies that are late on purpose


def serving(limits: Limits) -> Iterator[RunningServer]:
    with RunningServer(LLM(device="cpu"), limits=limits, access=Access(allowed_hosts=LOOPBACK_HOSTS)) as running:
        yield running
        wait_for(running.is_idle)
        assert running.chat().status_code == 200


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    yield from serving(LIMITS)


@pytest.fixture(scope="module")
def impatient_server() -> Iterator[RunningServer]:
    yield from serving(IMPATIENT)


HEADS = {
    "1 MB in one header": (b"X: " + b"a" * 10**6, 431),
    "more than 64 KiB": (b"X: " + b"a" * MAX_HEADER_BYTES, 431),
    "too many": (b"\r\n".join([b"X: 1"] * MAX_HEADERS), 431),
    "very many": (b"\r\n".join([b"a:"] * 15_000), 431),
    "as many as may be": (b"\r\n".join([b"X: 1"] * (MAX_HEADERS - 2)), 200),
    "nearly 64 KiB": (b"X: " + b"a" * (MAX_HEADER_BYTES - 200), 200),
    "a name that is none": (b"X : 1", 400),
    "no name": (b": 1", 400),
    "no colon": (b"X", 400),
    "NUL": (b"X: a\0b", 400),
    "a lone CR": (b"X: a\rY: b", 400),
    "two hosts": (b"Host: localhost", 400),
    "other bytes": (b"X: \xff\xed\xa0\x80", 200),
}


@pytest.mark.parametrize(("lines", "status"), HEADS.values(), ids=HEADS)
def test_sec_08_headers(server: RunningServer, lines: bytes, status: int) -> None:
    answer = send(server, request("GET", "/version", lines))
    assert answer.status == status
    assert status == 200 or answer.error["type"] == "invalid_request_error"


def test_sec_08_many_headers_are_counted_before_they_are_parsed(server: RunningServer) -> None:
    many = request("GET", "/version", *["a:"] * 15_000)
    assert longest_stall_s(server, lambda: send(server, many), good=0.05) < 0.05


def test_sec_08_a_range_of_many_parts_is_the_whole_file_at_once(server: RunningServer) -> None:
    parts = ",".join(f"{i}-{i}" for i in range(5000))
    found: list[Answer] = []
    ranged = request("GET", "/static/docs.css", f"Range: bytes={parts}")
    assert seconds_of(lambda: found.append(send(server, ranged)), good=0.1) < 0.1
    found.append(send(server, request("GET", "/static/docs.css", "Range: bytes=0-1")))
    assert {(one.status, one.body) for one in found} == {(200, send(server, request("GET", "/static/docs.css")).body)}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip", "x"])
def test_sec_08_a_compressed_body_is_not_unpacked(server: RunningServer, encoding: str) -> None:
    answer = send(server, post(CHAT, BODY, f"Content-Encoding: {encoding}"))
    assert answer.status == 415 and answer.error["code"] == "unsupported_media_type"
    two = send(server, post(CHAT, BODY, "Content-Encoding: identity", "Content-Encoding: gzip"))
    assert two.status == 415


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/tokenize", "/detokenize"])
def test_sec_08_no_endpoint_reads_forms(server: RunningServer, path: str) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="f"; filename="../../x"\r\n\r\nx\r\n--x--\r\n'
    for content_type in ("multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        assert send(server, post(path, form, content_type=content_type)).status == 415


def drip(one: socket.socket, data: Iterator[bytes]) -> Answer:
    """Sends one byte at a time until the server closes the connection; returns its answer."""
    one.settimeout(0.02)
    received = b""
    for byte in data:
        with suppress(TimeoutError):
            try:
                one.sendall(byte)
                part = one.recv(4096)
            except ConnectionError:
                break
            if not part:
                break
            received += part
    return Answer(received)


def test_sec_08_headers_that_come_slowly_end_the_connection(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEADER_TIMEOUT_S", 0.3)
    endless = itertools.chain([b"GET / HTTP/1.1\r\nX: "], itertools.repeat(b"a", 500))
    with connect(server) as one:
        drip(one, endless)
        assert len(list(endless)) > 300, "it went on to the end"
    with connect(server) as silent:
        assert silent.recv(1) == b"", "one that says nothing"
    with connect(server) as again:
        again.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert again.recv(4096).startswith(b"HTTP/1.1 200")
        second = itertools.chain([b"GET / HTTP/1.1\r\nX: "], itertools.repeat(b"a", 500))
        drip(again, second)
        assert len(list(second)) > 300, "the second request of a connection"


def test_sec_08_a_body_that_comes_slowly_is_answered_and_ends_the_connection(
    impatient_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.3)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 90000\r\n\r\n"
    body = itertools.chain([head.encode()], itertools.repeat(b" ", 1000))
    with connect(impatient_server) as one:
        answer = drip(one, body)
        assert answer.status == 408 and answer.error["code"] == "body_timeout"
        assert len(list(body)) > 700, "the rest of the body was read on and on"


def test_sec_08_after_a_body_that_was_answered_early_the_connection_serves_on(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 1.0)
    again = request("GET", "/version").replace(b"Connection: close\r\n", b"")

    def answer(one: socket.socket, end: bytes) -> bytes:
        received = b""
        while not received.endswith(end):
            received += one.recv(1) or b"(closed)" + end
        return received[:12]

    with connect(server) as one:
        one.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{}")
        assert answer(one, b"}}") == b"HTTP/1.1 404"
        one.sendall(b"cde" + again)
        assert answer(one, b'"}') == b"HTTP/1.1 200"
        one.settimeout(1.2)  # longer than the server waits for the rest of that body
        with pytest.raises(TimeoutError):
            one.recv(1)
        one.settimeout(20)
        one.sendall(again)
        assert answer(one, b'"}') == b"HTTP/1.1 200"


def chunks(size: int, times: int) -> Iterator[bytes]:
    return itertools.chain(itertools.repeat(b"%x\r\n%b\r\n" % (size, b" " * size), times), [b"0\r\n\r\n"])


def test_sec_08_an_endless_body_in_chunks_is_refused_in_bounded_memory(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.2)
    head = request("POST", CHAT, "Content-Type: application/json", "Transfer-Encoding: chunked")
    send(server, head + b"".join(chunks(1000, 200)))
    before = resident_bytes()
    with connect(server) as one:
        one.sendall(head)
        with suppress(ConnectionError):
            for chunk in chunks(1 << 16, 16_000):  # 1 GB
                one.sendall(chunk)
        assert resident_bytes() - before < 8 << 20
    answer = send(server, head + b"".join(chunks(1000, 101)))
    assert answer.status == 413 and answer.error["code"] == "body_too_long"


@pytest.mark.parametrize(("length", "status"), [(100_000, 400), (100_001, 413)])
def test_sec_08_the_limit_of_a_body_holds_to_the_byte_however_it_comes(
    server: RunningServer, length: int, status: int
) -> None:
    assert send(server, post(CHAT, b" " * length)).status == status
    head = request("POST", CHAT, "Content-Type: application/json", "Transfer-Encoding: chunked")
    assert send(server, head + b"%x\r\n%b\r\n0\r\n\r\n" % (length, b" " * length)).status == status


def test_sec_08_who_asks_before_sending_is_refused_before(server: RunningServer) -> None:
    large = request("POST", CHAT, "Content-Type: application/json", "Content-Length: 100001", "Expect: 100-continue")
    assert send(server, large).status == 413
    small = post(CHAT, BODY, "Expect: 100-continue")
    assert send(server, small).raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


LENGTHS = {
    "negative": ["Content-Length: -1"],
    "with a sign": ["Content-Length: +2"],
    "no number": ["Content-Length: 2a"],
    "no whole number": ["Content-Length: 2.0"],
    "another script's": [b"Content-Length: \xb2"],
    "huge": ["Content-Length: " + "9" * 4000],
    "two": ["Content-Length: 2", "Content-Length: 3"],
    "a list": ["Content-Length: 2, 3"],
    "both": ["Content-Length: 2", "Transfer-Encoding: chunked"],
    "chunked twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "chunked and more": ["Transfer-Encoding: gzip, chunked"],
    "not quite chunked": ["Transfer-Encoding: xchunked"],
    "vertical tab": [b"Transfer-Encoding: \x0bchunked"],
}


@pytest.mark.parametrize("lines", LENGTHS.values(), ids=LENGTHS)
def test_sec_08_a_request_of_no_certain_length_is_refused_and_nothing_follows(
    server: RunningServer, lines: list[str | bytes]
) -> None:
    one = request("POST", CHAT, "Content-Type: application/json", *lines).replace(b"Connection: close\r\n", b"")
    answer = send(server, one + b"0\r\n\r\n" + request("GET", "/version"))
    assert answer.status == 400 and answer.error["code"] == "invalid_http"
    assert answer.raw.count(b"HTTP/1.1 ") == 1, "what stood behind it was taken for a request"


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n", b"-1\r\na\r\n", b"0x2\r\n{}\r\n", b"2\r\n{}XX0\r\n\r\n", b"2\r\n{}\n0\r\n\r\n"]
)
def test_sec_08_a_chunk_that_is_none_ends_the_request(server: RunningServer, chunk: bytes) -> None:
    head = request("POST", CHAT, "Content-Type: application/json", "Transfer-Encoding: chunked")
    answer = send(server, head + chunk + request("GET", "/version"))
    assert answer.status == 400 and answer.raw.count(b"HTTP/1.1 ") == 1


def test_sec_08_requests_in_a_row_are_judged_one_by_one(server: RunningServer) -> None:
    first = request("GET", "/version").replace(b"Connection: close\r\n", b"")
    row = send(server, first + first + request("GET", "/version", host="evil.example")).raw
    assert row.count(b"HTTP/1.1 200") == 2 and row.count(b"HTTP/1.1 403") == 1


ODD = {
    "no host in HTTP/1.0": (b"GET /version HTTP/1.0\r\n\r\n", 403),
    "no host": (b"GET /version HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "nothing but ends": (b"\r\n\r\n\r\n\r\n", 400),
    "no target": (b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no slash": (request("GET", "version"), 404),
    "another URL": (request("GET", "http://evil.example/version"), 404),
    "the server's own URL": (request("GET", "http://localhost/version"), 404),
    "a star": (request("OPTIONS", "*"), 404),
    "CONNECT": (request("CONNECT", "evil.example:443"), 404),
    "TRACE": (request("TRACE", "/version", "Cookie: secret"), 405),
    "a method of script": (request("<script>", "/version"), 400),
    "NUL": (request("GET", b"/v\0"), 400),
    "a quoted NUL": (request("GET", "/static/docs.css%00.html"), 404),
    "no hexadecimal": (request("GET", "/v1/%zz%1%"), 404),
    "no UTF-8": (request("GET", "/v1/models/%ff%fe"), 404),
    "a surrogate": (request("GET", "/v1/models/%ed%a0%80"), 404),
    "bytes": (request("GET", b"/v\xc3\xa9"), 400),
    "line ends": (request("GET", "/v1/models/%0d%0aSet-Cookie:%20a=b"), 404),
    "a long path": (request("GET", "/static/" + "a/" * 20_000), 414),
    "a long name": (request("GET", "/v1/models/" + "a" * 60_000), 414),
    "a long query": (request("GET", "/version?" + "a" * 60_000), 200),
    "WebSocket": (request("GET", "/version", "Upgrade: websocket").replace(b"close", b"upgrade, close"), 200),
}


@pytest.mark.parametrize(("data", "status"), ODD.values(), ids=ODD)
def test_sec_08_odd_requests_are_answered(server: RunningServer, data: bytes, status: int) -> None:
    answer = send(server, data)
    assert answer.status == status and b"set-cookie" not in answer.raw.lower().partition(b"\r\n\r\n")[0]
    assert status == 200 or answer.error["code"]


def test_sec_08_a_path_of_very_many_parts_is_not_looked_up(server: RunningServer) -> None:
    path = request("GET", "/static/" + "a/" * 20_000)
    assert seconds_of(lambda: send(server, path), good=0.1) < 0.1


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_sec_08_no_method_on_any_route_fails(server: RunningServer, method: str) -> None:
    paths = [route.path for route in server.app.routes if hasattr(route, "path") and route.path not in ("/", "/docs")]
    for path in paths:
        answer = send(server, request(method, path.replace("{name:path}", "x")))
        assert answer.status in (200, 204, 404, 405), path
        assert method != "HEAD" or answer.body == b""


def test_sec_08_more_connections_than_the_limit_are_told_so_and_health_is_served(
    impatient_server: RunningServer,
) -> None:
    head = post(CHAT, BODY)[:-5]  # the missing bytes keep the request open for a while
    with ThreadPoolExecutor(4) as pool:
        held = [connect(impatient_server) for _ in range(LIMITS.max_connections)]
        for one in held:
            one.sendall(head)
        refused = [send(impatient_server, request("GET", "/version")) for _ in range(3)]
        assert send(impatient_server, request("GET", "/health")).status == 200
        assert {one.status for one in pool.map(read_all, held)} == {408}
    assert refused[-1].status == 503 and refused[-1].error["code"] == "too_many_connections"
    assert ("retry-after", "1") in refused[-1].headers
    assert send(impatient_server, request("GET", "/version")).status == 200
