"""Hostile request fields: bombs, out-of-range numbers, media, templates. Errors name the field and come at once."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwartet import LLM
from qwartet.openai_api.protocol import ChatCompletionRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from qwartet.server.limits import Limits
from tests.server.attack import CHAT, COMPLETION, post, request, resident_bytes, seconds_of, send
from tests.server.running_server import HELLO, RunningServer

ENDS = list("aeiou 。")  # ends the text early when max_tokens itself is tested
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "max_tokens": 1, "stop": ENDS},
    COMPLETION: {"prompt": "one two", "max_tokens": 1, "stop": ENDS},
    "/tokenize": {"prompt": "one two"},
    "/detokenize": {"tokens": [1]},
}
MODELS = {
    CHAT: ChatCompletionRequest, COMPLETION: CompletionRequest, "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(LLM(device="cpu"), limits=Limits(request_timeout_s=20)) as running:
        yield running
        assert running.is_idle() and running.chat().status_code == 200


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"content-type": "application/json"}, timeout=60) as client:
        yield client


TEMPLATES = [
    "{{ ''.__class__.__mro__ }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ cycler.__init__.__globals__ }}",
]


@pytest.mark.parametrize("field", ["chat_template", "prompt_embeds", "messages.0.chat_template"])
@pytest.mark.parametrize("value", [*TEMPLATES, {"template": TEMPLATES[0]}])
def test_sec_05_a_request_brings_no_template(server: RunningServer, field: str, value: Any) -> None:
    """SEC-05b and SEC-01c too: nor tensors."""
    body = {**BODIES[CHAT], field: value}
    if "." in field:
        body = {"messages": [{**HELLO[0], "chat_template": value}]}
    answer = server.post(CHAT, **body)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "unknown_field"
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        (TEMPLATES[0], "", "invalid_value"),
        ({"enable_thinking": TEMPLATES[0]}, ".enable_thinking", "invalid_value"),
        ({"enable_thinking": {"template": TEMPLATES[0]}}, ".enable_thinking", "invalid_value"),
        *(({name: TEMPLATES[0]}, f".{name}", "unknown_field") for name in ("template", "chat_template", "messages")),
        ({"enable_thinking": True, "tools": [TEMPLATES[0]]}, ".tools", "unknown_field"),
    ],
)
def test_sec_05_of_the_settings_of_a_template_only_thinking_is_taken(
    server: RunningServer, value: Any, param: str, code: str
) -> None:
    for path in (CHAT, "/tokenize"):
        answer = server.post(path, messages=HELLO, chat_template_kwargs=value)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == code
        assert answer.json()["error"]["param"] == f"chat_template_kwargs{param}"


@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs", "prompt_embeds", "x"])
def test_sec_05_null_brings_none_either(server: RunningServer, field: str) -> None:
    plain = server.post(CHAT, **BODIES[CHAT], temperature=0).json()
    for body in ({field: None}, {"messages": [{**HELLO[0], field: None}]}):
        answer = server.post(CHAT, **{**BODIES[CHAT], "temperature": 0, **body})
        assert answer.status_code == 200 and answer.json()["choices"] == plain["choices"]


@pytest.mark.parametrize("value", [10**9, 10**18, 0, -1, 129, 9])
@pytest.mark.parametrize(("path", "field"), [(CHAT, "n"), (COMPLETION, "n"), (COMPLETION, "best_of")])
def test_sec_06_too_many_completions_are_refused_before_anything_is_allocated(
    server: RunningServer, path: str, field: str, value: int
) -> None:
    def ask() -> None:
        answer = send(server, post(path, {**BODIES[path], field: value}))
        assert answer.status == 400 and answer.error["param"] == field

    ask()
    before = resident_bytes()
    assert seconds_of(ask, good=0.1) < 0.1
    assert resident_bytes() - before < 5 << 20


def test_sec_06_prompts_count_as_often_as_they_are_completed(server: RunningServer) -> None:
    answer = server.post(COMPLETION, prompt=["a", "b", "c"], n=3, max_tokens=1)
    assert answer.status_code == 400 and "9 completions requested; the maximum is 8" in answer.text
    assert server.post(COMPLETION, prompt=["a", "b"], n=4, max_tokens=1).status_code == 200


def test_sec_06_more_tokens_than_the_context_has_are_not_made(server: RunningServer) -> None:
    length = server.llm.engine.max_model_len
    body = {"prompt": [100] * (length - 20), "max_tokens": 2**31, "ignore_eos": True, "n": 2}
    assert server.post(COMPLETION, **body).json()["usage"]["completion_tokens"] == 2 * 20


def places(schema: dict[str, Any], kinds: set[str], path: str = "@") -> Iterator[str]:
    """Where a value of such a kind may occur in a body, as texts with @ in its place."""
    if schema.get("type") in kinds or "const" in schema or "enum" in schema:
        yield path
    for one in schema.get("anyOf", []):
        yield from places(one, kinds, path)
    if schema.get("type") == "array" and "items" in schema:
        yield from places(schema["items"], kinds, path.replace("@", "[@]"))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from places(schema["additionalProperties"], kinds, path.replace("@", '{"3":@}'))


NUMERIC = [
    (path, field, place)
    for path, model in MODELS.items()
    for field, schema in model.model_json_schema()["properties"].items()
    for place in dict.fromkeys(places(schema, {"integer", "number", "boolean"}))
    if path != COMPLETION or schema != ChatCompletionRequest.model_json_schema()["properties"].get(field)
]
LITERALS = (
    "-1", "0", "1", "-0.0", "2", "7.5", "128", "129", "1e-320", "2147483647", "2147483648", "-2147483649",
    "9223372036854775807", "9223372036854775808", str(2**80), "9" * 4000, "9" * 5000, "1e308", "1e999", "-1e999", "NaN",
    "Infinity", "-Infinity", "true", "false", '"3"', '"NaN"', "null", "[]", "{}", "[[]]",
)  # fmt: skip


def test_sec_07_the_numeric_fields_are_all_known() -> None:
    """The fields that the next test covers are not empty by mistake."""
    fields = {field for path, field, _ in NUMERIC if path == CHAT}
    assert {"temperature", "n", "seed", "logit_bias", "stop_token_ids", "priority", "top_logprobs", "stream"} <= fields
    assert ("/detokenize", "tokens", "[@]") in NUMERIC and (COMPLETION, "prompt", "[[@]]") in NUMERIC


@pytest.mark.parametrize(("path", "field", "place"), NUMERIC)
def test_sec_07_any_number_is_served_or_refused(client: httpx.Client, path: str, field: str, place: str) -> None:
    for literal in LITERALS:
        body = {**BODIES[path], field: "@"}
        raw = json.dumps(body).replace('"@"', place.replace("@", literal))
        answer = client.post(path, content=raw)
        assert answer.status_code in (200, 400), f"{literal}: {answer.text[:300]}"
        if answer.status_code == 400:
            error = answer.json()["error"]
            assert error["code"] and len(answer.content) < 1000, literal
        elif answer.headers["content-type"] == "application/json":
            json.loads(answer.text, parse_constant=pytest.fail)


@given(
    body=st.dictionaries(
        st.sampled_from([*ChatCompletionRequest.model_json_schema()["properties"], "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
            max_leaves=4,
        ),
        max_size=3,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sec_07_any_value_in_any_field_is_served_or_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    raw = json.dumps({**BODIES[CHAT], **body}).encode()
    assert client.post(CHAT, content=raw).status_code in (200, 400, 404)  # 404: another model


OF_ANOTHER_TYPE = [
    {"n": True}, {"n": "1"}, {"n": 1.0}, {"temperature": "0.5"}, {"temperature": True}, {"stream": "true"},
    {"stream": 0}, {"user": 1}, {"stop": [1]}, {"seed": 7.0}, {"logit_bias": {"1": "2"}}, {"metadata": {"a": 1}},
    {"stop_token_ids": ["1"]},
]  # fmt: skip


@pytest.mark.parametrize("field", OF_ANOTHER_TYPE, ids=str)
def test_sec_07_values_of_another_type_are_not_converted(server: RunningServer, field: dict[str, Any]) -> None:
    answer = server.chat(**{**BODIES[CHAT], **field})
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith(next(iter(field)))


HUGE = {
    "stop": ({"stop": ["x"] * 10_000}, "stop"),
    "long stop": ({"stop": "x" * 257}, "stop"),
    "bias": ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    "bias of no token": ({"logit_bias": {"151851": 1}}, "logit_bias"),
    "bias below": ({"logit_bias": {"-1": 1}}, "logit_bias"),
    "bias of another digit": ({"logit_bias": {"٣": 1}}, "logit_bias"),
    "stop ids": ({"stop_token_ids": [1] * 1025}, "stop_token_ids"),
    "no messages": ({"messages": []}, "messages"),
    "messages": ({"messages": HELLO * 2049}, "messages"),
    "min_tokens": ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
    "long unknown field": ({"y" * 100_000: 1}, "y" * 100_000),
}


@pytest.mark.parametrize(("body", "param"), HUGE.values(), ids=HUGE)
def test_sec_07_what_is_too_much_is_refused_by_name(server: RunningServer, body: dict[str, Any], param: str) -> None:
    answer = send(server, post(CHAT, {**BODIES[CHAT], **body}))
    assert answer.status == 400 and answer.error["param"] == param


@pytest.mark.parametrize("prompt", ["", [], [[]], [""], ["a", ""], [[1], []], [-1], [4352], [2**70], [True], [None]])
def test_sec_07_a_prompt_that_is_none_is_refused(server: RunningServer, prompt: Any) -> None:
    answer = server.post(COMPLETION, prompt=prompt)
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("prompt")


NO_JSON = {
    "deep lists": b"[" * 40_000,
    "deep objects": b'{"a":' * 20_000,
    "number": b'{"n": ' + b"9" * 5000 + b"}",
    "float": b'{"temperature": 1e999}',
    "NaN": b'{"temperature": NaN}',
    "UTF-16": '{"messages": []}'.encode("utf-16"),
    "UTF-32": '{"messages": []}'.encode("utf-32"),
    "no UTF-8": b'{"user": "\xff"}',
    "surrogates in UTF-8": b'{"user": "\xed\xa0\x80"}',
    "overlong": b'{"user": "\xc0\xaf"}',
    "two marks": b"\xef\xbb\xbf" * 2 + b"{}",
    "two values": b"{}{}",
    "control character": b'{"user": "\x00"}',
    "nothing": b"",
    "no end": b'{"messages"',
}


@pytest.mark.parametrize("raw", NO_JSON.values(), ids=NO_JSON)
@pytest.mark.parametrize("path", BODIES)
def test_sec_07_what_is_no_json_is_told_so(server: RunningServer, path: str, raw: bytes) -> None:
    answer = send(server, post(path, raw))
    assert answer.status == 400 and answer.error["code"] == "invalid_json"
    assert "sys." not in answer.error["message"], "advice meant for developers of the server"


def test_sec_07_of_two_equal_keys_the_last_is_checked_and_used(server: RunningServer) -> None:
    def ask(keys: str) -> Any:
        raw = f'{{"messages": [{{"role": "user", "content": "hi", "content": "hello"}}], {keys}, "max_tokens": 1}}'
        return send(server, post(CHAT, raw.encode()))

    assert ask('"n": 1, "n": 1000000000').status == 400
    served = ask('"n": 1000000000, "n": 2')
    assert served.status == 200 and len(json.loads(served.body)["choices"]) == 2


def test_sec_07_a_mark_of_byte_order_is_no_harm(server: RunningServer) -> None:
    assert send(server, post(CHAT, b"\xef\xbb\xbf" + json.dumps(BODIES[CHAT]).encode())).status == 200


@pytest.fixture
def connections(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that this process connects to or looks up, except the server's own."""
    found: list[Any] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def spy_connect(self: socket.socket, address: Any) -> None:
        if address[:2] != ("127.0.0.1", server.port):
            found.append(address)
        connect(self, address)

    def spy_look_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != "127.0.0.1":
            found.append(host)
        return look_up(host, port, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", spy_connect)
    monkeypatch.setattr(socket, "getaddrinfo", spy_look_up)
    return found


PARTS = [
    {"type": "image_url", "image_url": {"url": "@"}},
    {"type": "image_url", "image_url": "@"},
    {"type": "input_image", "image_url": "@"},
    {"type": "video_url", "video_url": {"url": "@"}},
    {"type": "audio_url", "audio_url": {"url": "@"}},
    {"type": "input_audio", "input_audio": {"data": "@", "format": "wav"}},
    {"type": "file", "file": {"file_id": "@", "filename": "@", "file_data": "@"}},
    {"type": "image_embeds", "image_embeds": "@"},
    {"type": "text", "text": "x", "image_url": "@"},
]
URLS = [
    "http://127.0.0.1:9/x", "http://localhost:9\\@example.com/", "file:///etc/passwd", "data:image/png;base64,AAAA",
    "ftp://localhost/x",
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS, ids=lambda part: "+".join(part))
def test_sec_11_media_are_refused_and_nothing_is_fetched(
    server: RunningServer, connections: list[Any], part: dict[str, Any]
) -> None:
    for url in URLS:
        filled = json.loads(json.dumps(part).replace("@", url.replace("\\", "\\\\")))
        for content in ([filled], [{"type": "text", "text": "x"}, filled]):
            answer = send(server, post(CHAT, {"messages": [{"role": "user", "content": content}]}))
            assert answer.status == 400 and answer.error["param"].startswith("messages.0.content")
    assert connections == []


def test_sec_11_a_server_that_serves_opens_no_connection(server: RunningServer, connections: list[Any]) -> None:
    for path, body in BODIES.items():
        for more in ({}, {"stream": True}) if path in (CHAT, COMPLETION) else ({},):
            assert send(server, post(path, {**body, **more})).status == 200
    for path in ("/", "/docs", "/openapi.json", "/metrics", "/version", "/v1/models", "/health", "/static/docs.css"):
        assert send(server, request("GET", path)).status == 200
    assert connections == []


def test_sec_11_the_spy_sees_connections(connections: list[Any]) -> None:
    with pytest.raises(ConnectionRefusedError), socket.socket() as one:
        one.connect(("127.0.0.1", 9))
    socket.getaddrinfo("localhost", 9)
    assert connections == [("127.0.0.1", 9), "localhost"]
