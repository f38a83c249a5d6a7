"""SEC-09 and SEC-10: texts and structures built to be slow; other requests are unaffected."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from qwartet import LLM
from qwartet.openai_api.prepare import CHARS_PER_TOKEN
from tests.server.attack import CHAT, COMPLETION, Answer, longest_stall_s, post, resident_bytes, seconds_of, send
from tests.server.running_server import HELLO, RunningServer, wait_for

REPEATED = {
    "spaces": " ", "letters": "a", "carets": "^", "lines": "\n", "tabs and spaces": "\t ", "digits": "1",
    "wide spaces": "\u3000", "joined emoji": "👩\u200d", "marks out of order": "\u0316\u0301",
    "one letter and marks": "\u0301", "halves of syllables": "\u1100\u1161", "special tokens": "<|im_start|>",
    "lone surrogates": "\ud800",
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(LLM(device="cpu")) as running:
        assert running.chat(guided_regex="a", max_tokens=1).status_code == 200  # warm-up: loads the structure library
        yield running
        wait_for(running.is_idle)
        assert running.chat().status_code == 200


def asked(path: str, text: str) -> bytes:
    bodies: dict[str, Any] = {
        CHAT: {"messages": [{"role": "user", "content": text}], "max_tokens": 1},
        COMPLETION: {"prompt": text, "max_tokens": 1},
        "/tokenize": {"prompt": text},
    }
    raw = json.dumps(bodies[path], ensure_ascii=False)
    return post(path, raw.replace("\ud800", "\\ud800").encode())


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/tokenize"])
@pytest.mark.parametrize("unit", REPEATED.values(), ids=REPEATED)
def test_sec_09_a_text_of_one_thing_over_and_over_is_answered_soon_and_stalls_nobody(
    server: RunningServer, path: str, unit: str
) -> None:
    most = CHARS_PER_TOKEN * server.llm.engine.max_model_len
    num_units = 1_500_000 // len(json.dumps(unit, ensure_ascii=unit == "\ud800").encode())
    for num_chars, status in ((most, {200, 400}), (num_units * len(unit), {400})):
        data = asked(path, (unit * (num_chars // len(unit) + 1))[:num_chars])
        answers: list[Answer] = []

        def ask(data: bytes = data, answers: list[Answer] = answers) -> None:
            answers.append(send(server, data))

        assert longest_stall_s(server, ask, good=0.1) < 0.1
        assert seconds_of(ask, good=2) < 2
        assert {one.status for one in answers} <= status


JSON_BOMBS = {
    "lists": b'{"messages": [' + b"[]," * 600_000 + b"1]}",
    "objects": b'{"messages": [' + b"{}," * 600_000 + b"1]}",
    "keys": json.dumps({f"k{i}": 1 for i in range(150_000)}).encode(),
    "labels": json.dumps({"metadata": {f"k{i}": 1 for i in range(49_000)}, "messages": HELLO}).encode(),
    "biases": json.dumps({"logit_bias": {f"k{i}": "a" for i in range(49_000)}, "messages": HELLO}).encode(),
    "fields": json.dumps({"messages": HELLO, **{f"k{i}": 1 for i in range(49_000)}}).encode(),
    "parts": json.dumps({"messages": [{"role": "user", "content": [{}] * 49_000}]}).encode(),
    "numbers for parts": json.dumps({"messages": [{"role": "user", "content": [1] * 400_000}]}).encode(),
    "parts of messages": json.dumps({"messages": [{"role": "user", "content": [{}] * 20}] * 2000}).encode(),
    "numbers for messages": json.dumps({"messages": [1] * 400_000}).encode(),
    "numbers for stops": json.dumps({"messages": HELLO, "stop": [1] * 400_000}).encode(),
    "choices": json.dumps({"messages": HELLO, "guided_choice": ["a"] * 200_000}).encode(),
    "stop ids": json.dumps({"messages": HELLO, "stop_token_ids": list(range(200_000))}).encode(),
}


@pytest.mark.parametrize("raw", JSON_BOMBS.values(), ids=JSON_BOMBS)
def test_sec_09_a_body_of_very_many_values_is_refused_soon_and_in_little_memory(
    server: RunningServer, raw: bytes
) -> None:
    """2 MB of invalid message parts once took 30 s and 1.8 GB."""
    data = post(CHAT, raw)
    answer = send(server, data)
    assert answer.status == 400 and answer.error["message"]
    before = resident_bytes()
    assert longest_stall_s(server, lambda: send(server, data), good=0.25) < 0.25, (
        "reading 2 MB of JSON takes most of it"
    )
    assert seconds_of(lambda: send(server, data), good=1) < 1
    assert resident_bytes() - before < 64 << 20


@pytest.mark.parametrize("name", ["labels", "biases", "fields"])
def test_sec_09_of_very_many_errors_only_the_number_is_told(server: RunningServer, name: str) -> None:
    """Examining one error costs 15 us and 2 KB."""
    assert send(server, post(CHAT, JSON_BOMBS[name])).error["message"].startswith("49000 fields")


def test_sec_09_very_many_fields_that_are_passed_over_stall_nobody(server: RunningServer) -> None:
    many = {f"k{i}": 1 for i in range(40_000)}
    data = post(CHAT, {"messages": [{**HELLO[0], **many}], "max_tokens": 1, **dict.fromkeys(list(many)[:4000])})
    assert send(server, data).status == 200
    assert longest_stall_s(server, lambda: send(server, data), good=0.25) < 0.25


def test_sec_09_ids_without_end_are_not_turned_into_text(server: RunningServer) -> None:
    most = CHARS_PER_TOKEN * server.llm.engine.max_model_len
    assert server.post("/detokenize", tokens=[1] * most).status_code == 200
    assert server.post("/detokenize", tokens=[1] * (most + 1)).json()["error"]["param"] == "tokens"
    assert server.post("/detokenize", tokens=[-1]).status_code == 400
    assert server.post("/detokenize", tokens=[server.llm.tokenizer.num_tokens]).status_code == 400


def nested(levels: int) -> Any:
    schema: Any = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def asks_for(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


HOSTILE = {
    "broken regex": {"guided_regex": "(a"},
    "look-ahead": {"guided_regex": "(?=a)b"},
    "states": {"guided_regex": "(a|b)*a(a|b){30}"},
    "repeats of repeats": {"guided_regex": "((a{1,99}){1,99}){1,99}"},
    "long regex": {"guided_regex": "a*" * 2048},
    "too long regex": {"guided_regex": "a" * 5000},
    "unknown type": asks_for({"type": "bogus"}),
    "type of no kind": asks_for({"type": 3}),
    "broken pattern": asks_for({"type": "string", "pattern": "("}),
    "itself": asks_for({"$ref": "#"}),
    "circle": asks_for({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
    "remote": asks_for({"$ref": "http://127.0.0.1:9/schema"}),
    "file": asks_for({"$ref": "file:///etc/passwd"}),
    "remote dialect": asks_for({"$schema": "http://127.0.0.1:9/schema"}),
    "deep": asks_for(nested(60)),
    "too deep": asks_for(nested(300)),
    "deep text": {"guided_json": '{"items":' * 3000 + "{}" + "}" * 3000},
    "long enum": asks_for({"enum": [f"e{i}" for i in range(9000)]}),
    "too long enum": asks_for({"enum": [f"e{i}" for i in range(20_000)]}),
    "many items": asks_for({"type": "array", "items": {"type": "integer"}, "minItems": 10**6}),
    "many required": asks_for({"type": "object", "required": [f"p{i}" for i in range(4000)]}),
    "1.5 MB": asks_for({"description": "x" * 1_500_000}),
    "choices": {"guided_choice": [f"{i:05}" for i in range(10_000)]},
    "too many choices": {"guided_choice": ["a"] * 10_001},
}


@pytest.fixture
def visitors() -> Iterator[list[Any]]:
    """Connections to the port that hostile schemas name; there must be none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        found: list[Any] = [listener.getsockname()[1]]
        yield found
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("structure", HOSTILE.values(), ids=HOSTILE)
def test_sec_10_a_hostile_structure_is_served_or_refused_and_stalls_nobody(
    server: RunningServer, visitors: list[Any], structure: dict[str, Any]
) -> None:
    raw = json.dumps({"messages": HELLO, "max_tokens": 2, **structure}).replace(
        "127.0.0.1:9", f"127.0.0.1:{visitors[0]}"
    )
    data = post(CHAT, raw.encode())
    answers: list[Answer] = []
    assert longest_stall_s(server, lambda: answers.append(send(server, data)), good=0.15) < 0.15
    assert {one.status for one in answers} <= {200, 400}
    assert all(one.error["type"] == "invalid_request_error" for one in answers if one.status == 400)


def test_sec_10_others_are_served_while_structures_are_compiled(server: RunningServer) -> None:
    slow = post(CHAT, {"messages": HELLO, "max_tokens": 1, "guided_choice": [f"{i:05}" for i in range(10_000)]})
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(send, server, slow) for _ in range(8)]
        assert seconds_of(lambda: server.get("/health").raise_for_status(), good=1) < 1
        assert server.chat(max_tokens=1).status_code == 200
        assert {one.result().status for one in waiting} == {200}


def many_schemas(server: RunningServer, numbers: range) -> None:
    def ask(number: int) -> None:
        schema = {"properties": {f"name {number}": {"const": f"value {number}"}}, "required": [f"name {number}"]}
        body = {"messages": HELLO, "max_tokens": 1, **asks_for({"type": "object", **schema})}
        assert client.post(CHAT, json=body).status_code == 200

    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, numbers))


@pytest.mark.parametrize("num_schemas", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_sec_10_schemas_without_end_leave_nothing_in_memory(server: RunningServer, num_schemas: int) -> None:
    many_schemas(server, range(100))
    before = resident_bytes()
    many_schemas(server, range(100, 100 + num_schemas))
    assert resident_bytes() - before < 16 << 20
