"""OpenAI's API as other servers implement it: which fields does this one accept, and what do its events contain?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from qwartet.bench.http_client import Answer, BrokenAnswerError, HttpClient
from qwartet.bench.request_times import RequestTimes
from qwartet.errors import SettingError

Endpoint = Literal["chat", "completions"]
Prompt = str | list[int]

PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
PROBE_IDS = [32, 33, 34, 35]
USAGE = {"stream_options": {"include_usage": True}}
FIXED_LENGTH = {"ignore_eos": True}


@dataclass(frozen=True)
class Dialect:
    """The requests for a server, and what it accepts."""

    model: str
    endpoint: Endpoint
    extra: dict[str, Any] = field(default_factory=dict)
    takes_ids: bool = False

    @property
    def path(self) -> str:
        return PATHS[self.endpoint]

    def body(self, prompt: Prompt, max_tokens: int) -> bytes:
        """A greedy request for a stream of `max_tokens` tokens."""
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        if self.endpoint == "completions":
            asked = {"prompt": prompt}
        settings = {"max_tokens": max_tokens, "temperature": 0, "stream": True, **self.extra}
        return json.dumps({"model": self.model, **asked, **settings}).encode()

    def remarks(self) -> list[str]:
        """What the server does not accept, and what this means for the figures."""
        found = []
        if "ignore_eos" not in self.extra:
            found.append("the server does not support ignore_eos: answers end where the model ends them")
        if "stream_options" not in self.extra:
            found.append("the server reports no usage: each chunk of text counts as a token")
        if self.endpoint == "completions" and not self.takes_ids:
            found.append("the server accepts no token ids: prompts are sent as text, and their length is approximate")
        return found


async def probe(client: HttpClient, endpoint: Endpoint, model: str | None) -> Dialect:
    """Asks for the model's name and for one token in each way; SettingError if the server does not answer."""
    plain = Dialect(await _first_model(client) if model is None else model, endpoint)
    await _try(client, plain, "Hello", must=True)
    found = plain
    for extra in (USAGE, FIXED_LENGTH):
        if await _try(client, replace(plain, extra=extra), "Hello"):
            found = replace(found, extra={**found.extra, **extra})
    if endpoint == "completions" and await _try(client, plain, PROBE_IDS):
        found = replace(found, takes_ids=True)
    return found


async def _try(client: HttpClient, dialect: Dialect, prompt: Prompt, *, must: bool = False) -> bool:
    """Whether a request for one token is answered with a stream; with usage, if that is requested."""
    heard = StreamReader(RequestTimes(0.0))
    answer = await _ask(client, "POST", dialect.path, dialect.body(prompt, 1), heard)
    is_answered = answer.is_ok and heard.error is None and heard.is_whole
    if must and not is_answered:
        told = heard.error if answer.is_ok else message_of(answer)
        raise SettingError(
            f"{dialect.path} returned {answer.status} ({told or 'no stream'}); check --endpoint and --model"
        )
    return is_answered and ("stream_options" not in dialect.extra or heard.num_usage_tokens is not None)


async def _first_model(client: HttpClient) -> str:
    answer = await _ask(client, "GET", "/v1/models")
    try:
        return str(json.loads(answer.body)["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        said = f"/v1/models returned {answer.status} ({message_of(answer) or 'no list of models'})"
        raise SettingError(f"{said}; set --model, and --api-key if the server requires one") from None


async def _ask(
    client: HttpClient, method: str, path: str, body: bytes = b"", heard: StreamReader | None = None
) -> Answer:
    try:
        if method == "GET":
            return await client.get(path)
        return await client.post(path, body, None if heard is None else heard.take)
    except (OSError, BrokenAnswerError) as error:
        raise SettingError(f"the server does not answer ({error}); is it running, and is this its URL?") from None


def message_of(answer: Answer) -> str:
    """The error message of a response that is not a stream, or nothing."""
    try:
        value = json.loads(answer.body)
    except ValueError:
        return ""
    error = value.get("error", value) if isinstance(value, dict) else value
    return str(error.get("message", "") if isinstance(error, dict) else error)[:300]


class StreamReader:
    """The events of one answer: the times of those that carry text, and their number of tokens.

    Errors are kept in `error` and `kind`; nothing is raised.
    """

    def __init__(self, times: RequestTimes, start_s: float = 0.0) -> None:
        """`start_s`: of the load, in time.perf_counter() seconds; `times` is filled."""
        self.times = times
        self.num_usage_tokens: int | None = None
        self.num_prompt_tokens = 0
        self.is_whole = False  # [DONE] was received
        self.kind = ""  # of its error
        self.error: str | None = None
        self._start_s = start_s

    def take(self, now_s: float, data: bytes) -> None:
        """The next event."""
        if data == b"[DONE]":
            self.is_whole = True
            return
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                self._fail("error event", str(chunk["error"]))
                return
            if chunk.get("usage") is not None:
                self._take_usage(chunk["usage"])
            if _says_anything(chunk.get("choices") or ()):
                self.times.output_s.append(now_s - self._start_s)
                self.times.num_tokens += 1
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            self._fail("not understood", f"{type(error).__name__}: {error}")

    def end(self) -> None:
        """The stream is over: if the server reports a number of tokens, it counts."""
        if self.num_usage_tokens is not None:
            self.times.num_tokens = self.num_usage_tokens
        if self.error is None and not self.is_whole:
            self._fail("cut", "the stream ended without [DONE]")
        if self.error is None and not self.times.output_s:
            self._fail("no text", "the stream ended without any text")

    def _take_usage(self, usage: dict[str, Any]) -> None:
        # Some servers report it in every chunk; the last one counts.
        self.num_usage_tokens = int(usage["completion_tokens"])
        self.num_prompt_tokens = int(usage["prompt_tokens"])

    def _fail(self, kind: str, error: str) -> None:
        if self.error is None:
            self.kind, self.error = kind, error[:300]


def _says_anything(choices: Sequence[dict[str, Any]]) -> bool:
    """Whether any of them contains text; reasoning is text too."""
    for choice in choices:
        delta = choice.get("delta") or choice
        if any(delta.get(name) for name in ("content", "text", "reasoning_content", "reasoning")):
            return True
    return False
