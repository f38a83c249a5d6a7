"""A server that plays scripted answers to the page, including faults that a real server rarely shows."""

from __future__ import annotations

import json
import mimetypes
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import qwartet.server

STATIC = Path(qwartet.server.__file__).parent / "static"
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'; object-src 'none'"
)
SETTINGS = {"temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"}
CONTINUES = {"add_generation_prompt", "continue_final_message"}
FIELDS = {"model", "messages", "stream", "stream_options", "chat_template_kwargs"} | CONTINUES | SETTINGS
PATIENCE_S = 20  # for a gate that a test has forgotten to open


@dataclass
class Answer:
    """What is played to one POST: an error status, or pieces of text and how they end."""

    pieces: list[str] = field(default_factory=lambda: ["Hello", " there."])
    reasoning: list[str] = field(default_factory=list)  # before them; `gate_after` counts these pieces too
    finish: str = "stop"
    usage: tuple[int, int] | None = None  # prompt and completion tokens; None: 20, and one a piece
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None  # as an event after the pieces, or as the body where status is an error
    is_cut: bool = False  # the connection is closed after the pieces
    gate_after: int | None = None  # waits for `gate` after so many pieces
    gate: threading.Event = field(default_factory=threading.Event)
    was_left: threading.Event = field(default_factory=threading.Event)  # the page has closed the connection


def chunk(
    model: str, delta: dict[str, str] | None, finish: str | None = None, usage: dict[str, int] | None = None
) -> dict:
    """One event of a stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return {**about, "choices": choices, "usage": usage}


class StubServer(ThreadingHTTPServer):
    """Plays `answers` in their order, then says Hello; keeps the bodies that it was sent."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.reset()

    def reset(self) -> None:
        """As new, for the next test."""
        self.answers: list[Answer] = []
        self.bodies: list[dict[str, Any]] = []
        self.key: str | None = None
        self.version = "0.0.test"
        self.models = [self.model("qwen-demo")]
        self.may_list_models = threading.Event()  # cleared by a test: the list is late
        self.may_list_models.set()

    @staticmethod
    def model(
        name: str, max_model_len: int = 2048, is_chat: bool = True, thinking: str | None = None
    ) -> dict[str, Any]:
        """An entry of /v1/models; other servers say nothing about thinking."""
        about = {"object": "model", "created": 1, "owned_by": "qwartet"}
        about |= {} if thinking is None else {"thinking": thinking}
        return {"id": name, **about, "max_model_len": max_model_len, "is_chat": is_chat}


class Handler(BaseHTTPRequestHandler):
    """The page's files, three GETs, and the scripted POST."""

    server: StubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Tests read no log."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/":
            self.send_file(STATIC / "index.html")
        elif path.startswith("/static/"):
            self.send_file(STATIC / Path(path).name)
        elif not self.is_allowed():
            self.send_error_object(401, {"message": "an API key is needed", "code": "invalid_api_key"})
        elif path == "/v1/models":
            self.server.may_list_models.wait(PATIENCE_S)
            self.send_json(200, {"object": "list", "data": self.server.models})
        elif path == "/version":
            self.send_json(200, {"version": self.server.version})
        else:
            self.send_error_object(404, {"message": f"no {path}"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.is_allowed():
            self.send_error_object(401, {"message": "an API key is needed", "code": "invalid_api_key"})
            return
        if unknown := body.keys() - FIELDS:
            self.send_error_object(400, {"message": f"unsupported fields: {sorted(unknown)}", "code": "unknown_field"})
            return
        self.server.bodies.append(body)
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        if answer.status != 200:
            self.send_error_object(answer.status, answer.error or {"message": ""}, answer.headers)
        else:
            self.stream(answer, body.get("model") or self.server.models[0]["id"])

    def is_allowed(self) -> bool:
        return self.server.key is None or self.headers["Authorization"] == f"Bearer {self.server.key}"

    def send_file(self, path: Path) -> None:
        if not path.is_file():
            self.send_error_object(404, {"message": "no such file"})
            return
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
        headers = {
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "max-age=600",  # for the next test's page
        }
        self.send_bytes(200, path.read_bytes(), f"{kind}; charset=utf-8", headers)

    def send_json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(status, json.dumps(value).encode(), "application/json", headers)

    def send_error_object(self, status: int, error: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.send_json(status, {"error": {"type": "error", "param": None, "code": None, **error}}, headers)

    def send_bytes(self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, answer: Answer, model: str) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.play(answer, model)
        except OSError:
            answer.was_left.set()

    def play(self, answer: Answer, model: str) -> None:
        self.send_event(chunk(model, {"role": "assistant", "content": ""}))
        deltas = [{"reasoning_content": piece} for piece in answer.reasoning]
        deltas += [{"content": piece} for piece in answer.pieces]
        for i, delta in enumerate(deltas):
            if i == answer.gate_after:
                self.wait_at(answer)
            self.send_event(chunk(model, delta))
        if len(deltas) == answer.gate_after:
            self.wait_at(answer)
        if answer.error is not None:
            self.send_event({"error": {"type": "server_error", "param": None, "code": None, **answer.error}})
        if answer.error is not None or answer.is_cut:
            return
        prompt, completion = answer.usage or (20, len(answer.pieces))
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        self.send_event(chunk(model, {}, answer.finish))
        self.send_event(chunk(model, None, usage=usage))
        self.wfile.write(b"data: [DONE]\n\n")

    def wait_at(self, answer: Answer) -> None:
        """Until the test opens the gate. Pings show, as in the real server, whether the page is still there."""
        for _ in range(PATIENCE_S * 20):
            if answer.gate.wait(0.05):
                return
            self.wfile.write(b": ping\n\n")

    def send_event(self, value: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
