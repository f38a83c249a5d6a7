"""A server that sends scripted bytes, faults included, with as little HTTP as that takes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

Script = Callable[[socket.socket], None]
MODELS = {"object": "list", "data": [{"id": "qwen", "object": "model", "max_model_len": 2048}]}


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]  # names in small letters
    body: Any  # of JSON; None where there was none


class ScriptedServer:
    """Answers each request to a path by the next of its scripts; the last one is repeated.

    with ScriptedServer() as server:
        server.chat = [answer("one"), refusal(503)]
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.models: list[Script] = [whole(json.dumps(MODELS))]
        self.chat: list[Script] = [answer("HELLO")]
        self.asked: list[Asked] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)
        assert not self._thread.is_alive(), "a script did not end"

    @property
    def chat_bodies(self) -> list[Any]:
        """The bodies that were posted."""
        return [asked.body for asked in self.asked if asked.method == "POST"]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the end
                return
            with connection:
                connection.settimeout(30)
                asked = _read_request(connection)
                self.asked.append(asked)
                scripts = self.models if asked.path.endswith("/v1/models") else self.chat
                with suppress(OSError):  # the client left
                    (scripts.pop(0) if len(scripts) > 1 else scripts[0])(connection)


def _read_request(connection: socket.socket) -> Asked:
    with connection.makefile("rb") as file:
        method, path, _ = file.readline().decode().split()
        headers = {}
        while line := file.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        content = file.read(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, json.loads(content) if content else None)


def head(status: int = 200, kind: str = "text/event-stream", **headers: str) -> bytes:
    """The beginning of a response whose end is that of the connection."""
    lines = [f"HTTP/1.1 {status} said", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def sends(*parts: bytes) -> Script:
    """Sends bytes and hangs up."""

    def script(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return script


def whole(text: str, status: int = 200, kind: str = "application/json", **headers: str) -> Script:
    """A response that is no stream."""
    return sends(head(status, kind, **headers) + text.encode())


def event(content: str | None = None, **more: Any) -> bytes:
    """One chunk of an answer."""
    choice = {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": None}
    return f"data: {json.dumps({'choices': [choice | more]})}\n\n".encode()


def usage(prompt: Any, completion: Any) -> bytes:
    """The chunk that says how many tokens there were."""
    return f"data: {json.dumps({'choices': [], 'usage': _usage(prompt, completion)})}\n\n".encode()


def _usage(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


DONE = b"data: [DONE]\n\n"


def answer(*pieces: str, thoughts: Sequence[str] = (), finish_reason: str = "stop") -> Script:
    """A whole answer, as our own server would send it."""
    first = event(role="assistant")
    thinking = (event(delta={"reasoning_content": thought}) for thought in thoughts)
    last = event(finish_reason=finish_reason)
    return sends(head(), first, *thinking, *map(event, pieces), last, usage(20, len(pieces)), DONE)


class Waits:
    """Sends the beginning of an answer, then waits until the client hangs up, which it notes."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self.was_left = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        sends(head(), *map(event, self.pieces))(connection)
        with suppress(ConnectionError):
            connection.recv(1)
        self.was_left.set()
