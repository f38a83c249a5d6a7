"""Streamed answers, and all the ways in which they fail."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from qwartet.client import openai_server
from qwartet.client.openai_server import AnswerEnd, OpenAIServer, ServedModel
from qwartet.errors import PromptTooLongError, ServerError, SettingError
from tests.client.scripted_server import DONE, ScriptedServer, Waits, answer, event, head, sends, usage, whole

HELLO = [{"role": "user", "content": "hello"}]


def read(server: ScriptedServer, **fields: object) -> tuple[list[str], AnswerEnd]:
    """The pieces of an answer, and its end."""
    pieces = []
    stream = OpenAIServer(server.url, timeout_s=20).chat_stream(HELLO, model="qwen", **fields)
    try:
        while True:
            pieces.append(next(stream))
    except StopIteration as end:
        return pieces, end.value


def failure(server: ScriptedServer, **fields: object) -> str:
    """The line about an answer that fails."""
    with pytest.raises(ServerError) as caught:
        read(server, **fields)
    line = str(caught.value)
    assert line.startswith(f"{server.url}: ") and "; " in line and "\n" not in line
    return line


def test_an_answer_comes_in_its_pieces_and_ends_with_its_counts(scripted: ScriptedServer) -> None:
    scripted.chat = [answer("你", "好", finish_reason="length")]
    assert read(scripted) == (["你", "好"], AnswerEnd("length", 20, 2))


def test_the_request_is_openai_s(scripted: ScriptedServer) -> None:
    list(OpenAIServer(scripted.url + "/v1", api_key="k3y").chat_stream(HELLO, model="qwen", top_k=3))
    (asked,) = scripted.asked
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.headers["authorization"] == "Bearer k3y" and asked.headers["content-type"] == "application/json"
    assert asked.body == {
        "model": "qwen", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}, "top_k": 3,
    }  # fmt: skip


def test_without_a_key_none_is_sent(scripted: ScriptedServer) -> None:
    read(scripted)
    assert "authorization" not in scripted.asked[0].headers


def test_a_path_before_v1_is_kept(scripted: ScriptedServer) -> None:
    list(OpenAIServer(scripted.url + "/qwen/v1").chat_stream(HELLO, model="qwen"))
    assert scripted.asked[0].path == "/qwen/v1/chat/completions"


def test_signs_of_life_and_empty_chunks_are_no_pieces(scripted: ScriptedServer) -> None:
    parts = [b": ping\n\n", event(""), event(None), b": ping\n\n", event("a"), event(finish_reason="stop"), DONE]
    scripted.chat = [sends(head(), *parts)]
    assert read(scripted) == (["a"], AnswerEnd("stop", None, None))


def test_a_chunked_response_is_read_too(scripted: ScriptedServer) -> None:
    parts = [event("a"), event("b"), DONE]
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
    scripted.chat = [sends(head(Transfer_Encoding="chunked"), *chunks, b"0\r\n\r\n")]
    assert read(scripted)[0] == ["a", "b"]


def test_a_piece_is_given_out_while_the_rest_is_waited_for(scripted: ScriptedServer) -> None:
    waits = Waits("a", "b")
    scripted.chat = [waits]
    stream = OpenAIServer(scripted.url).chat_stream(HELLO, model="qwen")
    assert [next(stream), next(stream)] == ["a", "b"] and not waits.was_left.is_set()
    stream.close()


def test_closing_the_stream_closes_the_connection(scripted: ScriptedServer) -> None:
    waits = Waits("a")
    scripted.chat = [waits]
    stream = OpenAIServer(scripted.url).chat_stream(HELLO, model="qwen")
    next(stream)
    stream.close()
    assert waits.was_left.wait(20)


def test_half_a_character_becomes_a_sign_that_can_be_written(scripted: ScriptedServer) -> None:
    scripted.chat = [sends(head(), event("a\ud83d"), DONE)]
    assert read(scripted)[0] == ["a\ufffd"]


@pytest.mark.parametrize("wrong", ["12", -1, True, None, 1.5])
def test_counts_that_are_none_are_not_believed(scripted: ScriptedServer, wrong: object) -> None:
    scripted.chat = [sends(head(), event("a"), usage(wrong, 3), DONE)]
    assert read(scripted)[1] == AnswerEnd("stop", None, 3)


# An answer that breaks


@pytest.mark.parametrize(
    "parts",
    [
        [event("a")],
        [event("a"), event(finish_reason="stop")],
        [event("a"), b'data: {"choices": [{"delta": {"content": "b'],
        [event("a"), b"data: [DONE]"],
    ],
)
def test_a_stream_that_is_cut_is_no_answer(scripted: ScriptedServer, parts: list[bytes]) -> None:
    scripted.chat = [sends(head(), *parts)]
    assert "the answer was cut off; try again" in failure(scripted)


def test_a_connection_that_is_cut_within_a_chunk_is_no_answer(scripted: ScriptedServer) -> None:
    scripted.chat = [sends(head(Transfer_Encoding="chunked"), b"400\r\n", event("a"))]
    assert "the connection was lost; try again" in failure(scripted)


def test_a_connection_that_is_reset_is_no_answer(scripted: ScriptedServer) -> None:
    def script(connection: socket.socket) -> None:
        sends(head(), event("a"))(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    scripted.chat = [script]
    assert "the connection was lost" in failure(scripted)


@pytest.mark.parametrize(
    "part",
    [
        b'data: {"error": {"message": "the engine\\nfailed", "type": "server_error"}}\n\n',
        b'event: error\ndata: {"message": "the engine failed"}\n\n',
        b'data: {"error": "the engine failed"}\n\n',
    ],
)
def test_an_error_in_the_stream_is_told(scripted: ScriptedServer, part: bytes) -> None:
    scripted.chat = [sends(head(), event("a"), part, DONE)]
    assert "failed while answering (the engine failed); try again" in failure(scripted)


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_the_server_gave_up_is_none(scripted: ScriptedServer, reason: str) -> None:
    scripted.chat = [sends(head(), event("a"), event(finish_reason=reason), DONE)]
    assert "the server aborted the answer; try again" in failure(scripted)


@pytest.mark.parametrize("data", [b"hello", b"[]", b"{}", b"7", b"[" * 100_000, b"\xff"])
def test_an_event_that_is_no_chunk_is_told(scripted: ScriptedServer, data: bytes) -> None:
    scripted.chat = [sends(head(), b"data: " + data + b"\n\n", DONE)]
    assert "not a completion chunk; is this a chat API?" in failure(scripted)


@pytest.mark.parametrize("choices", ["[7]", '[{"delta": 7}]', '[{"delta": {"content": 7}}]', '{"a": 1}', "null"])
def test_chunks_of_an_odd_form_are_no_pieces(scripted: ScriptedServer, choices: str) -> None:
    scripted.chat = [sends(head(), f'data: {{"choices": {choices}}}\n\n'.encode(), event("a"), DONE)]
    assert read(scripted)[0] == ["a"]


def test_an_answer_without_end_is_left(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "MAX_ANSWER_CHARS", 1000)

    def script(connection: socket.socket) -> None:
        connection.sendall(head())
        while True:
            connection.sendall(event("x" * 100))

    scripted.chat = [script]
    assert "the answer exceeds 1000 characters; set max_tokens" in failure(scripted)


# Refusals

BUSY = '{"error": {"message": "the queue is full", "type": "rate_limit_error", "param": null, "code": null}}'


@pytest.mark.parametrize(
    ("script", "fragments"),
    [
        (whole("", 401), ["the API key is missing or was rejected; set QWARTET_API_KEY"]),
        (whole('{"error": {"message": "wrong key sk-1"}}', 403), ["the API key is missing or was rejected"]),
        (whole('{"error": {"message": "no model x"}}', 404), ["no such model or path (no model x); check"]),
        (whole("<html>not here</html>", 404, "text/html"), ["no such model or path; check"]),
        (whole(BUSY, 429, Retry_After="7"), ["busy (the queue is full); try again in 7 s"]),
        (whole(BUSY, 429), ["busy (the queue is full); try again later"]),
        (whole("", 503, Retry_After="0"), ["not ready; try again in 1 s"]),
        (whole("", 503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), ["try again in 1 s"]),
        (whole("", 503, Retry_After="soon"), ["try again later"]),
        (whole("", 503, Retry_After="9" * 5000), ["try again later"]),
        (whole('{"detail": "Invalid request"}', 400), ["rejected the request (Invalid request); optional fields"]),
        (whole('{"object": "error", "message": "bad"}', 400), ["rejected the request (bad); "]),
        (whole('{"error": {"message": "boom"}}', 500), ["answered 500 (boom); try again, and check the server's log"]),
        (whole("[" * 60_000, 502), ["answered 502 (Bad Gateway); "]),
        (whole("x" * 10_000_000, 500), ["answered 500 (Internal Server Error); "]),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_that_says_what_to_do(
    scripted: ScriptedServer, script: Callable[[socket.socket], None], fragments: list[str]
) -> None:
    scripted.chat = [script]
    line = failure(scripted)
    assert all(fragment in line for fragment in fragments), line
    assert len(line) < 500


@pytest.mark.parametrize(
    "script",
    [
        whole("", 413),
        whole('{"error": {"message": "the prompt has 9 tokens, the context 8; shorten the messages"}}', 400),
        whole('{"message": "This model\'s maximum context length is 8 tokens. Reduce max_tokens"}', 400),
    ],
)
def test_a_prompt_that_does_not_fit_is_an_error_of_its_own(
    scripted: ScriptedServer, script: Callable[[socket.socket], None]
) -> None:
    scripted.chat = [script]
    with pytest.raises(PromptTooLongError, match=r"the conversation is too long.*; shorten it or lower max_tokens"):
        read(scripted, max_tokens=3)


def test_a_date_of_retry_after_is_told_in_seconds(scripted: ScriptedServer) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    scripted.chat = [whole("", 429, Retry_After=date)]
    assert int(failure(scripted).rpartition("in ")[2].removesuffix(" s")) in range(80, 101)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Unrecognized request argument", "param": "top_k"}},
        {"error": {"message": "unsupported field 'top_k'"}},
        {"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]},
    ],
)
def test_the_setting_that_a_server_refuses_is_named(scripted: ScriptedServer, body: object) -> None:
    scripted.chat = [whole(json.dumps(body), 400)]
    assert failure(scripted, top_k=3, top_p=0.5).endswith("; leave out top_k, or change the value")


def test_a_redirect_is_not_followed(scripted: ScriptedServer) -> None:
    with ScriptedServer() as other:
        scripted.chat = [whole("", 307, Location=f"{other.url}/v1/chat/completions")]
        with pytest.raises(ServerError, match=rf"redirects to {other.url}/v1.*; use that URL instead"):
            list(OpenAIServer(scripted.url, api_key="k3y").chat_stream(HELLO, model="qwen"))
        assert other.asked == []


def test_an_answer_that_is_no_stream_is_told(scripted: ScriptedServer) -> None:
    scripted.chat = [whole("<html>", kind="text/html; charset=utf-8")]
    assert "answered with text/html, not an event stream; is this a chat API?" in failure(scripted)


# Connections


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd, gzip"])
def test_an_answer_that_a_proxy_compressed_is_told(scripted: ScriptedServer, coding: str) -> None:
    scripted.chat = [sends(head(Content_Encoding=coding) + b"\x1f\x8b")]
    assert f"sent a compressed response ({coding}), not requested; bypass the proxy" in failure(scripted)
    scripted.models = [whole("\x1f", Content_Encoding=coding)]
    with pytest.raises(ServerError, match="sent a compressed response"):
        OpenAIServer(scripted.url).models()


def test_silence_has_a_limit(scripted: ScriptedServer) -> None:
    scripted.chat = [Waits("a")]
    with pytest.raises(ServerError, match=r"no data for 0\.2 s; try again, or raise --timeout"):
        list(OpenAIServer(scripted.url, timeout_s=0.2).chat_stream(HELLO, model="qwen"))


def test_what_speaks_no_http_is_told(scripted: ScriptedServer) -> None:
    scripted.chat = [sends(b"220 mail.example ESMTP\r\n")]
    assert "the response is not HTTP; check the address" in failure(scripted)


def test_a_server_that_hangs_up_at_once_is_told(scripted: ScriptedServer) -> None:
    scripted.chat = [sends()]
    assert "the connection was lost; try again" in failure(scripted)


def test_nobody_listening_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerError, match="connection refused; start the server"):
        OpenAIServer(f"http://127.0.0.1:{port}").models()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_a_name_that_can_be_no_host_is_told(host: str) -> None:
    with pytest.raises(ServerError, match="no such host; check the address"):
        OpenAIServer(f"http://{host}").models()


def test_tls_with_a_server_that_has_none_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_plainly() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 no\r\n\r\n")

        thread = threading.Thread(target=answer_plainly)
        thread.start()
        with pytest.raises(ServerError, match=r"TLS failed .*; is it an http:// address\?"):
            OpenAIServer(f"https://127.0.0.1:{listener.getsockname()[1]}").models()
        thread.join(20)


@pytest.mark.parametrize("key", ["", "a b", "a\r\nx: y", "ключ"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(SettingError, match="the API key"):
        OpenAIServer("http://x", api_key=key)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_limit_of_silence_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(SettingError, match="timeout is"):
        OpenAIServer("http://x", timeout_s=timeout)


# Models


def models(scripted: ScriptedServer, *entries: object) -> list[ServedModel]:
    scripted.models = [whole(json.dumps({"data": list(entries)}))]
    return OpenAIServer(scripted.url).models()


def test_models_are_named_with_their_context_where_it_is_told(scripted: ScriptedServer) -> None:
    found = models(
        scripted,
        {"id": "ours", "max_model_len": 2048},
        {"id": "llama.cpp's", "meta": {"n_ctx_train": 8192}},
        {"id": "silent", "max_model_len": "many"},
        {"id": "thinker", "max_model_len": 2048, "thinking": "optional"},
        {"id": "always", "max_model_len": 2048, "thinking": "always"},
        {"id": 7},
        "no entry",
    )
    assert found == [
        ServedModel("ours", 2048),
        ServedModel("llama.cpp's", 8192),
        ServedModel("silent", None),
        ServedModel("thinker", 2048, can_skip_thinking=True),
        ServedModel("always", 2048),
    ]


@pytest.mark.parametrize("text", ["", "{}", '{"data": []}', '{"data": 7}', "[]", "<html>"])
def test_a_server_without_models_is_told(scripted: ScriptedServer, text: str) -> None:
    scripted.models = [whole(text)]
    with pytest.raises(ServerError, match=r"/v1/models lists no models; is this an OpenAI-compatible API\?"):
        OpenAIServer(scripted.url).models()


def test_a_list_of_models_without_end_is_not_read_to_its_end(scripted: ScriptedServer) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(head(kind="application/json"))
        while True:
            connection.sendall(b" " * 100_000)

    scripted.models = [script]
    with pytest.raises(ServerError, match="lists no models"):
        OpenAIServer(scripted.url).models()
