"""Logs and error messages contain no prompt, key or path (SEC-17); input is at most one inert log line (SEC-18)."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from qwartet import LLM
from qwartet.cli.serve import _start_log
from qwartet.engine.async_engine import AsyncEngine
from qwartet.openai_api import exchange, token_ids
from qwartet.openai_api.chunks import ChatChunks
from qwartet.server import json_answer, service
from qwartet.server.access import Access
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from tests.server.attack import CHAT, COMPLETION, post, request, send
from tests.server.running_server import RunningServer, spawned, wait_for

KEY = "key-that-nobody-may-read"
PLACE = "/srv/secret/place"
PROMPT = "WordsOfAUser"  # searched for; an exception in each layer quotes it
BODY = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture
def server(llm: LLM) -> Iterator[RunningServer]:
    with RunningServer(llm, access=Access(api_keys=[KEY])) as running:
        yield running
        wait_for(running.is_idle)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    for name in ("uvicorn", "asyncio"):
        caplog.set_level(logging.WARNING, name)  # like `qwartet serve`
    caplog.set_level(logging.DEBUG, "qwartet")
    return caplog


def ask(server: RunningServer, path: str = CHAT, **body: Any) -> httpx.Response:
    return server.post(path, headers={"Authorization": f"Bearer {KEY}"}, **(body or BODY))


def assert_discreet(text: str) -> None:
    for secret in (PROMPT, KEY):
        assert secret not in text


def test_sec_17_neither_prompts_nor_keys_are_logged(server: RunningServer, log: pytest.LogCaptureFixture) -> None:
    assert ask(server).status_code == 200
    assert ask(server, **BODY, stream=True).status_code == 200
    assert ask(server, COMPLETION, prompt=PROMPT, max_tokens=2, stop=PROMPT, user=PROMPT).status_code == 200
    assert ask(server, "/tokenize", prompt=PROMPT).status_code == 200
    assert ask(server, **BODY, temperature=PROMPT).status_code == 400
    assert ask(server, **BODY, guided_regex=f"({PROMPT}").status_code == 400
    assert ask(server, **BODY, model=PROMPT).status_code == 404
    assert ask(server, **{PROMPT: 1}).status_code == 400
    server.get(f"/version?key={KEY}", headers={"Cookie": KEY, "User-Agent": PROMPT})
    server.post(CHAT, headers={"Authorization": f"Bearer {KEY}x"}, **BODY)
    send(server, post(CHAT, f'{{"{PROMPT}'.encode(), f"Authorization: Bearer {KEY}"))
    assert len(log.records) >= 10
    assert_discreet(log.text)


def raises(*_: Any, **__: Any) -> Any:
    raise ValueError(f"{PROMPT} {KEY} of {PLACE}")


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a body being checked": lambda patch: patch.setattr(service, "json_of", raises),
    "a prompt being made": lambda patch: patch.setattr(LLM, "prompt_ids", raises),
    "text to ids": lambda patch: patch.setattr(TiktokenTokenizer, "encode", raises),
    "ids to text": lambda patch: patch.setattr(TiktokenTokenizer, "decode", raises),
    "a request being queued": lambda patch: patch.setattr(AsyncEngine, "add", raises),
    "an answer being made": lambda patch: patch.setattr(exchange, "chat_completion", raises),
    "a chunk being made": lambda patch: patch.setattr(ChatChunks, "of", raises),
    "the first chunk being made": lambda patch: patch.setattr(ChatChunks, "beginning", raises),
    "tokens being told": lambda patch: patch.setattr(token_ids, "TokenizeResponse", raises),
    "a response being written": lambda patch: patch.setattr(json_answer.JsonAnswer, "render", raises),
    "an answer being counted": lambda patch: patch.setattr("qwartet.server.metrics.Metrics.count_exchange", raises),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_sec_17_a_failure_anywhere_tells_nobody_what_it_was_about(
    server: RunningServer, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None]
) -> None:
    with monkeypatch.context() as patch:
        fault(patch)
        answers = [
            send(server, post(path, body, f"Authorization: Bearer {KEY}"))
            for path, body in (
                (CHAT, BODY),
                (CHAT, {**BODY, "stream": True}),
                ("/tokenize", {"prompt": PROMPT}),
                ("/detokenize", {"tokens": [1]}),
            )
        ]
    for answer in answers:
        text = answer.raw.decode("utf-8", "replace")
        assert_discreet(text)
        assert "Traceback" not in text and PLACE not in text and ".py" not in text and "File " not in text
    assert "failed with ValueError" in log.text and ".py" in log.text, "where it came from is told to the operator"
    assert_discreet(log.text)
    assert PLACE not in log.text
    assert ask(server).status_code == 200, "one failure is not the next one's"


@pytest.mark.parametrize(
    "make",
    [lambda: ValueError(PROMPT), lambda: KeyError(PROMPT), lambda: MemoryError(PROMPT), lambda: RecursionError(PROMPT)],
)
def test_sec_17_a_failure_in_the_middleware_is_an_error_object(
    server: RunningServer, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception]
) -> None:
    def fail(*_: Any) -> Any:
        raise make()

    monkeypatch.setattr("qwartet.server.guard.Guard._check_key", fail)
    answer = send(server, post(CHAT, BODY, f"Authorization: Bearer {KEY}"))
    assert answer.status == 500 and answer.error["code"] == "internal_error"
    assert_discreet(answer.raw.decode() + log.text)


def test_sec_17_errors_hold_no_path_of_this_machine(server: RunningServer) -> None:
    key = f"Authorization: Bearer {KEY}"
    for data in (
        request("GET", "/nothing", key),
        request("GET", "/static/nothing", key),
        request("DELETE", "/version", key),
        request("GET", "/v1/models/x", key),
        post(CHAT, {"messages": []}, key),
        post(CHAT, b"{", key),
        post(CHAT, {**BODY, "guided_json": "{"}, key),
        post(CHAT, {**BODY, "guided_regex": "("}, key),
    ):
        answer = send(server, data)
        assert 400 <= answer.status < 500
        message = answer.error["message"]
        assert not any(
            word in message for word in ("/root", "/tmp", "/home", "site-packages", ".py", "Traceback", "0x")
        )


def test_sec_17_a_process_says_nothing_of_its_keys() -> None:
    token = "hf_" + "t" * 30
    with spawned("--api-key", f"{KEY}-2", env={"QWARTET_API_KEY": KEY, "HF_TOKEN": token}) as (process, url):
        wait_for(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 200, 60)
        headers = {"Authorization": f"Bearer {KEY}-2"}
        assert httpx.post(f"{url}{CHAT}", json=BODY, headers=headers, timeout=60).status_code == 200
        assert httpx.post(f"{url}{CHAT}", json=BODY, timeout=60).status_code == 401
        process.terminate()
        told = process.stderr.read().decode()
    assert "POST" in told and "ready" in told
    for secret in (KEY, token, PROMPT):
        assert secret not in told


HOSTILE = [
    "\r\n2026 ERROR forged", "\x1b[31mred\x1b]0;title\x07", "\u2028\u2029", "\x9b31m", "\x7f\x08\x08", "\u202egnp.exe",
    "\t", "%0d%0aforged", "\x00", "ＦＯＲＧＥＤ\u0085",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_sec_18_nothing_that_is_sent_can_write_a_line_of_the_log(
    server: RunningServer, log: pytest.LogCaptureFixture, text: str
) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in text.encode())
    raw = text.encode().replace(b"\r\n", b" ").replace(b"\0", b"")
    key = f"Authorization: Bearer {KEY}"
    before = len(log.records)
    for data in (
        request("GET", f"/v1/models/{quoted}", key),
        request("GET", f"/static/{quoted}", key),
        request("GET", f"/{quoted}?{quoted}"),
        post(CHAT, {**BODY, "model": text, "user": text}, key),
        request("GET", "/version", key, b"User-Agent: " + raw, b"X-Request-Id: " + raw, b"Referer: " + raw),
        request(raw.decode("latin-1").replace(" ", ""), "/version", key),
    ):
        send(server, data)
    written = [record for record in log.records[before:] if record.name.startswith(("qwartet", "uvicorn"))]
    assert len(written) >= 4
    for record in written:
        line = record.getMessage()
        assert not [letter for letter in line if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp")], repr(line)
        assert line.isascii() and len(line) < 400


@pytest.mark.parametrize("asked", ["a" * 65, "a b", "a\tb", "a;b", "<b>", "a/b", "é", "", "a" * 5000, "a\u2028"])
def test_sec_18_a_request_id_is_taken_over_only_where_it_is_harmless(server: RunningServer, asked: str) -> None:
    key = f"Authorization: Bearer {KEY}"
    answer = send(server, request("GET", "/version", key, b"X-Request-Id: " + asked.encode()))
    given = dict(answer.headers)["x-request-id"]
    assert given != asked and given.isalnum() and len(given) == 16
    kept = "aZ_9-" * 12
    assert dict(send(server, request("GET", "/version", key, f"X-Request-Id: {kept}")).headers)["x-request-id"] == kept


def test_sec_18_what_the_log_writes_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    loggers = [logging.getLogger(name) for name in ("qwartet", "uvicorn", "asyncio")]
    kept = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    try:
        _start_log("info")
        for logger in loggers:
            logger.error("\x1b[31mred\x9b\x7f\rover\x00")
    finally:
        for logger, handlers, propagate, level in kept:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
    told = capsys.readouterr().err
    assert told.count("\n") == 3 and "red" in told
    assert not [letter for letter in told if unicodedata.category(letter) == "Cc" and letter != "\n"]
