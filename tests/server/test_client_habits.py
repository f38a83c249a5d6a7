"""What clients, browsers, monitors and load generators expect of an OpenAI-compatible server."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from qwartet import LLM
from qwartet.server.access import Access
from qwartet.server.limits import Limits
from tests.server.attack import CHAT, COMPLETION, connect, post, request, send
from tests.server.running_server import HELLO, RunningServer, events, wait_for

APP = "http://localhost:3000"
KEY = "key-of-a-browser-app"
# What the SDK for JavaScript sends, and what its helpers add.
SDK_HEADERS = (
    "authorization,content-type,openai-organization,openai-project,idempotency-key,x-stainless-arch,x-stainless-lang,"
    "x-stainless-os,x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,"
    "x-stainless-package-version,x-stainless-timeout,x-stainless-helper-method,x-stainless-of-tomorrow"
)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture(scope="module")
def server(llm: LLM) -> Iterator[RunningServer]:
    with RunningServer(llm, limits=Limits(keep_alive_s=0.3)) as running:
        yield running


@pytest.fixture(scope="module")
def open_to_app(llm: LLM) -> Iterator[RunningServer]:
    with RunningServer(llm, access=Access(api_keys=[KEY]), allowed_origins=[APP]) as running:
        yield running


def gets(server: RunningServer) -> list[str]:
    routes = [route for route in server.app.routes if "GET" in (getattr(route, "methods", None) or ())]
    paths = [str(getattr(route, "path", "")).replace("{name:path}", "demo") for route in routes]
    stored = server.post("/v1/responses", input="hello", max_output_tokens=1).json()["id"]
    paths = [path.replace("{response_id}", stored) for path in paths]
    assert len(paths) > 8
    return [*paths, "/static/docs.css"]


# Monitors


def test_head_is_get_without_a_body(server: RunningServer) -> None:
    for path in gets(server):
        got, head = send(server, request("GET", path)), send(server, request("HEAD", path))
        assert head.status == got.status in (200, 204), path
        assert head.raw.endswith(b"\r\n\r\n") and head.body == b"", path
        for name in ("content-type", "content-length", "content-security-policy", "etag"):
            assert path == "/metrics" or dict(head.headers).get(name) == dict(got.headers).get(name), (path, name)
    assert send(server, request("HEAD", CHAT)).status == send(server, request("GET", CHAT)).status == 405
    assert send(server, request("HEAD", "/nothing")).status == 404


def test_a_connection_serves_on_behind_head(server: RunningServer) -> None:
    row = b"".join(request("HEAD", "/version").replace(b"Connection: close\r\n", b"") for _ in range(2))
    answer = send(server, row + request("GET", "/version"))
    assert answer.raw.count(b"HTTP/1.1 200") == 3 and answer.raw.endswith(b'"}')


def test_head_is_counted_as_what_it_asks_for(server: RunningServer) -> None:
    before = server.metric("qwartet_http_requests_total", route="/version", status="200")
    send(server, request("HEAD", "/version"))
    wait_for(lambda: server.metric("qwartet_http_requests_total", route="/version", status="200") == before + 1)


# Browsers and people


def test_a_trailing_slash_changes_nothing(server: RunningServer) -> None:
    for path in gets(server):
        if path not in ("/", "/docs", "/metrics", "/static/docs.css"):
            assert send(server, request("GET", f"{path}/")).body == send(server, request("GET", path)).body, path
    for path, body in ((CHAT, {"messages": HELLO, "max_tokens": 1}), ("/tokenize", {"prompt": "a"})):
        assert send(server, post(f"{path}/", body)).status == 200


@pytest.mark.parametrize("root_path", ["", "/below"])
@pytest.mark.parametrize(("path", "location"), [("/", "../"), ("/docs", "../docs")])
def test_a_page_under_an_extra_slash_is_redirected_to_where_its_links_lead(
    llm: LLM, root_path: str, path: str, location: str
) -> None:
    """Its links are relative to its URL: /docs/ would look for /docs/static/docs.css."""
    with RunningServer(llm, root_path=root_path) as server:
        answer = server.get(f"{root_path}{path}/")
        assert (answer.status_code, answer.headers["location"]) == (308, location)
        page = server.get(f"{root_path}{path}")
        links = re.findall(r'(?:href|src)="([\w/.]+)"', page.text)
        assert any(link.startswith("static/") for link in links)
        for link in links:
            assert httpx.get(page.url.join(link)).status_code == 200, link


def test_a_page_is_never_shown_from_a_cache_of_an_older_version(server: RunningServer) -> None:
    for path in ("/", "/static/app.js"):
        assert server.get(path).headers["cache-control"] == "no-cache", path


def test_the_icon_that_every_browser_asks_for_is_no_error(server: RunningServer) -> None:
    answer = send(server, request("GET", "/favicon.ico"))
    assert answer.status == 204 and answer.body == b""


def preflight(server: RunningServer, origin: str, path: str = CHAT, *more: str) -> dict[str, str]:
    asked = [f"Origin: {origin}", "Access-Control-Request-Method: POST"]
    answer = send(server, request("OPTIONS", path, *asked, f"Access-Control-Request-Headers: {SDK_HEADERS}", *more))
    return {**dict(answer.headers), "status": str(answer.status)}


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/v1/models", "/tokenize", f"{CHAT}/"])
def test_the_sdk_in_a_page_of_an_allowed_origin_gets_through(open_to_app: RunningServer, path: str) -> None:
    headers = preflight(open_to_app, APP, path, "Access-Control-Request-Private-Network: true")
    assert headers["status"] == "200" and headers["access-control-allow-origin"] == APP
    assert headers["access-control-allow-headers"] == SDK_HEADERS
    assert headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in headers


def test_an_allowed_page_may_read_what_an_sdk_needs_of_answers_and_errors(open_to_app: RunningServer) -> None:
    key = f"Authorization: Bearer {KEY}"
    body = {"messages": HELLO, "max_tokens": 1}
    for data, status in (
        (post(CHAT, body, key, f"Origin: {APP}"), 200),
        (post(CHAT, {**body, "stream": True}, key, f"Origin: {APP}"), 200),
        (post(CHAT, body, f"Origin: {APP}"), 401),
        (post(CHAT, {}, key, f"Origin: {APP}"), 400),
        (request("GET", "/nothing", key, f"Origin: {APP}"), 404),
    ):
        answer = send(open_to_app, data)
        headers = dict(answer.headers)
        assert answer.status == status and headers["access-control-allow-origin"] == APP
        exposed = headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "retry-after"} <= set(exposed) and "x-request-id" in headers


@pytest.mark.parametrize("origin", ["http://localhost:4000", "http://localhost:3000.evil.example", "null", APP + "/"])
def test_another_origin_stays_shut_out(open_to_app: RunningServer, origin: str) -> None:
    headers = preflight(open_to_app, origin)
    assert headers["status"] == "400" and "access-control-allow-origin" not in headers
    answer = send(open_to_app, request("GET", "/health", f"Origin: {origin}"))
    assert "access-control-allow-origin" not in dict(answer.headers)


# Proxies


def test_a_connection_stays_open_between_requests_as_long_as_it_is_told(server: RunningServer) -> None:
    again = request("GET", "/version").replace(b"Connection: close\r\n", b"")
    with connect(server) as one:
        for _ in range(3):
            one.sendall(again)
            assert one.recv(4096).startswith(b"HTTP/1.1 200")
            time.sleep(0.1)
        started = time.monotonic()
        assert one.recv(1) == b""
        assert 0.05 < time.monotonic() - started < 5
    with RunningServer(server.llm, limits=Limits(keep_alive_s=30)) as patient, connect(patient) as one:
        one.sendall(again)
        assert one.recv(4096).startswith(b"HTTP/1.1 200")
        one.settimeout(0.5)
        with pytest.raises(socket.timeout):
            one.recv(1)


# Load generators, and clients that shorten conversations


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO}), (CHAT, {"messages": HELLO, "n": 2}), (COMPLETION, {"prompt": ["23 + 45 =", "a"]}),
        (COMPLETION, {"prompt": "a b c", "echo": True}),
    ],
    ids=["chat", "two", "prompts", "echo"],
)  # fmt: skip
def test_usage_in_every_chunk_grows_to_that_of_the_whole(
    server: RunningServer, path: str, body: dict[str, Any]
) -> None:
    asked = {**body, "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    whole = server.post(path, **asked).json()["usage"]
    for options in ({"continuous_usage_stats": True, "include_usage": True}, {"continuous_usage_stats": True}):
        chunks = events(server.post(path, **asked, stream=True, stream_options=options))[:-1]
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts) and counts[-1] == whole["completion_tokens"]
        assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {whole["prompt_tokens"]}
        assert (chunks[-1]["choices"] == []) is ("include_usage" in options)
    plain = events(server.post(path, **asked, stream=True, stream_options={"continuous_usage_stats": False}))
    assert not any("usage" in chunk for chunk in plain[:-1])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x " * 3000}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "x " * 30_000}]}, "messages"),
        (COMPLETION, {"prompt": "x " * 3000}, "prompt"), (COMPLETION, {"prompt": "x " * 30_000}, "prompt"),
        (COMPLETION, {"prompt": [5] * 2048}, "prompt"), (COMPLETION, {"prompt": ["a", "x " * 3000]}, "prompt"),
        ("/tokenize", {"prompt": "x " * 30_000}, "prompt"),
    ],
)  # fmt: skip
def test_a_prompt_that_is_too_long_is_told_in_openais_words(
    server: RunningServer, path: str, body: dict[str, Any], param: str
) -> None:
    answer = server.post(path, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "context_length_exceeded" and error["param"] == param
    assert error["message"].startswith("This model's maximum context length is 2048 tokens. However, your ")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ["a"] * 9}, "prompt"), ({"prompt": ["a"] * 9, "n": 2}, "prompt"), ({"prompt": "a", "n": 9}, "n"),
        ({"prompt": [[1]] * 9, "best_of": 1}, "prompt"), ({"prompt": ["a"] * 4, "n": 3}, "n"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"), ({"prompt": "a", "best_of": 9}, "best_of"),
    ],
)  # fmt: skip
def test_what_makes_too_many_completions_is_named(server: RunningServer, body: dict[str, Any], param: str) -> None:
    answer = server.post(COMPLETION, max_tokens=1, **body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_schema_asks_for_in_vain_is_said_beside_the_answer(server: RunningServer, stream: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x"], "type": "string", "format": "color\n"}}}
    answer = server.chat(guided_json=schema, stream=stream, max_tokens=20)
    assert answer.status_code == 200
    assert answer.headers["x-qwartet-notes"] == r"the schema's format 'color\n' is not enforced"
    assert "x-qwartet-notes" not in server.chat(max_tokens=1, stream=stream).headers
