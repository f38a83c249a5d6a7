"""A connection to an OpenAI-compatible server: lists its models and streams its answers.

`http.client` is enough, and safe for API keys: it follows no redirects and ignores proxy variables and netrc. Closing a
stream closes its connection, which tells the server to stop.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from qwartet.client.address import Address, parse_address
from qwartet.client.event_stream import Event, events
from qwartet.client.refusal import failure_line, refusal, told_by
from qwartet.errors import ServerError, SettingError

CONNECT_TIMEOUT_S = 10.0
MAX_BODY_BYTES = 4 * 2**20  # of a response that is not a stream
MAX_REFUSAL_BYTES = 2**16
MAX_ANSWER_CHARS = 2**21  # each may arrive as a piece of its own, which takes 80 bytes
CHUNK_BYTES = 2**16

_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class ServedModel:
    """One entry of /v1/models."""

    name: str
    context_length: int | None = None  # tokens; None if the server does not say
    can_skip_thinking: bool = False  # whether it is known that thinking can be switched off


@dataclass(frozen=True)
class AnswerEnd:
    """What is known about a complete answer; counts are in tokens, None if the server did not report them."""

    finish_reason: str  # "stop", "length", or another reason that the server gave
    num_prompt_tokens: int | None = None
    num_completion_tokens: int | None = None


class Piece(NamedTuple):
    """What an event adds to an answer."""

    text: str = ""
    reasoning: str = ""  # what the model thinks before its answer


class OpenAIServer:
    """One server; every request opens its own connection."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        """`timeout_s`: how long to wait for the next data. SettingError for an invalid URL or key."""
        if api_key is not None and not re.fullmatch(r"[!-~]+", api_key):
            raise SettingError("the API key is empty or has characters that an HTTP header cannot hold; check it")
        if not 0 < timeout_s <= 86_400:
            raise SettingError(f"timeout is {timeout_s:g} s; it must be above 0 and at most 86400 (one day)")
        self.address: Address = parse_address(url)
        self._api_key = api_key
        self._timeout_s = timeout_s

    def models(self) -> list[ServedModel]:
        """The models that the server lists, in its order; ServerError if they cannot be read."""
        with self._exchange("GET", "/v1/models", None, min(self._timeout_s, CONNECT_TIMEOUT_S)) as response:
            self._check_status(response)
            body = response.read(MAX_BODY_BYTES + 1)
        found = _json_object(body if len(body) <= MAX_BODY_BYTES else b"").get("data")
        entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        named = [entry for entry in entries if isinstance(entry.get("id"), str) and entry["id"]]
        if not named:
            raise ServerError(f"{self.address}: /v1/models lists no models; is this an OpenAI-compatible API?")
        return [
            ServedModel(_whole_text(entry["id"]), _context_length(entry), entry.get("thinking") == "optional")
            for entry in named
        ]

    def chat_stream(
        self, messages: Sequence[Mapping[str, str]], *, model: str, **fields: Any
    ) -> Generator[str, None, AnswerEnd]:
        """The text of an answer piece by piece; the generator's return value says how it ended.

        ServerError if it is incomplete; PromptTooLongError, before any piece, if the messages do not fit.
        """
        pieces = self.chat_pieces(messages, model=model, **fields)
        with closing(pieces):
            try:
                while True:
                    if text := next(pieces).text:
                        yield text
            except StopIteration as end:
                ended: AnswerEnd = end.value
                return ended

    def chat_pieces(
        self, messages: Sequence[Mapping[str, str]], *, model: str, **fields: Any
    ) -> Generator[Piece, None, AnswerEnd]:
        """The same with reasoning, where the server streams that."""
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **fields,
        }
        with self._exchange("POST", "/v1/chat/completions", body, self._timeout_s) as response:
            self._check_status(response, ("stream_options", *fields))
            if response.headers.get_content_type() != "text/event-stream":
                kind = response.headers.get_content_type()
                raise ServerError(f"{self.address}: answered with {kind}, not an event stream; is this a chat API?")
            return (yield from self._read_answer(response))

    def _read_answer(self, response: http.client.HTTPResponse) -> Generator[Piece, None, AnswerEnd]:
        finish_reason, num_chars = "stop", 0
        usage: dict[str, Any] = {}
        for event in events(_chunks(response)):
            if event.data == "[DONE]":
                return AnswerEnd(finish_reason, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
            chunk = self._chunk(event)
            usage = chunk["usage"] if isinstance(chunk.get("usage"), dict) else usage
            choices = chunk.get("choices")
            if not isinstance(choices, list) or not choices:
                continue
            choice = choices[0] if isinstance(choices[0], dict) else {}
            if isinstance(choice.get("finish_reason"), str):
                finish_reason = choice["finish_reason"]
            piece = _piece(choice.get("delta"))
            if piece != Piece():
                num_chars += len(piece.text) + len(piece.reasoning)
                if num_chars > MAX_ANSWER_CHARS:
                    message = f"the answer exceeds {MAX_ANSWER_CHARS} characters; set max_tokens"
                    raise ServerError(f"{self.address}: {message}")
                yield piece
            if finish_reason in ("abort", "error"):
                raise ServerError(f"{self.address}: the server aborted the answer; try again")
        raise ServerError(f"{self.address}: the answer was cut off; try again, and check the server's log")

    def _chunk(self, event: Event) -> dict[str, Any]:
        """A chunk of the answer; ServerError if the server reports an error or the event is not a chunk."""
        chunk = _json_object(event.data)
        if event.name == "error" or chunk.get("error"):
            reason = told_by(chunk)[0] or "no reason given"
            raise ServerError(f"{self.address}: failed while answering ({reason}); try again")
        if not chunk:
            raise ServerError(f"{self.address}: sent an event that is not a completion chunk; is this a chat API?")
        return chunk

    def _check_status(self, response: http.client.HTTPResponse, fields: Sequence[str] = ()) -> None:
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            hint = "bypass the proxy in front of it, or turn off its compression"
            raise ServerError(f"{self.address}: sent a compressed response ({coding:.40}), not requested; {hint}")
        if response.status != 200:
            body = response.read(MAX_REFUSAL_BYTES)
            raise refusal(str(self.address), response.status, response.headers, body, fields)

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, silence_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        """A request and its response; leaving the block closes the connection. ServerError if the connection fails."""
        headers = {"Accept": "application/json, text/event-stream", "Connection": "close"}
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection, response, limit_s = self._connection(), None, CONNECT_TIMEOUT_S
        try:
            connection.connect()
            limit_s = silence_s
            connection.sock.settimeout(silence_s)
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, self.address.path + path, content, headers)
            response = connection.getresponse()
            yield response
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            raise ServerError(failure_line(str(self.address), error, limit_s)) from error
        finally:
            if response is not None:
                response.close()
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        endpoint = (self.address.host, self.address.port)
        if self.address.scheme == "http":
            return http.client.HTTPConnection(*endpoint, timeout=CONNECT_TIMEOUT_S)
        return http.client.HTTPSConnection(*endpoint, timeout=CONNECT_TIMEOUT_S, context=ssl.create_default_context())


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body, as it arrives."""
    while chunk := response.read1(CHUNK_BYTES):
        yield chunk


def _json_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object; empty if the text is anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole_text(text: str) -> str:
    """Text without unpaired surrogates, which JSON allows but files and terminals do not."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _piece(delta: Any) -> Piece:
    """The texts of a delta; servers have two names for reasoning."""
    if not isinstance(delta, dict):
        return Piece()
    texts = [delta.get(name) for name in ("content", "reasoning_content", "reasoning")]
    content, *reasoning = (_whole_text(text) if isinstance(text, str) else "" for text in texts)
    return Piece(content, reasoning[0] or reasoning[1])


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _context_length(entry: Mapping[str, Any]) -> int | None:
    """vLLM and Qwartet report max_model_len; llama.cpp reports meta.n_ctx, or only the training context."""
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    counts = (_count(entry, "max_model_len"), _count(meta, "n_ctx"), _count(meta, "n_ctx_train"))
    return next((count for count in counts if count), None)
