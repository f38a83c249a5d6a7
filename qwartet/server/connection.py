"""HTTP/1.1 connections: uvicorn's, with limits on headers and framing, and errors in OpenAI's format.

uvicorn waits indefinitely for a request's headers, keeps reading a body after it has been answered, and closes a
connection only after the client has read everything. Each lets a client hold a descriptor for ever. Its parser limits
the size of incomplete headers, but not of headers that arrive at once, nor their number; and it parses everything
received in one turn of the event loop, so a body in one-byte chunks stalls all clients for seconds.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from qwartet.openai_api.error import ApiError
from qwartet.server.limits import MAX_CHUNKS, MAX_HEADER_BYTES, MAX_HEADERS

HEADER_TIMEOUT_S = 30.0
LINGER_S = 5.0  # for a client to stop sending a body that was already answered
BYTES_A_TURN = 8 << 10  # parsed before other clients are served: 1,400 one-byte chunks, about 12 ms
_END_OF_HEAD = re.compile(rb"\n\r?\n")


class Connection(H11Protocol):
    """One client's connection; the application can call `scope["extensions"]["qwartet.abort"]` to end it at once."""

    flow: _Flow
    conn: _Parser
    _timer: asyncio.TimerHandle | None = None  # ends the connection unless it is stopped first
    _is_lingering = False
    _is_draining = False  # further input is discarded

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Parser(h11.SERVER, MAX_HEADER_BYTES)
        self._inner_app, self.app = self.app, self._serve
        self._backlog = bytearray()  # received, not parsed yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._end_after(HEADER_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_draining:
            return
        is_waiting = bool(self._backlog)
        self._backlog += data
        if not is_waiting:
            self._parse_some()

    def _parse_some(self) -> None:
        if self._is_draining or self.transport.is_closing():
            return
        is_plain = self.conn.their_state is h11.SEND_BODY and not self._is_chunked
        size = len(self._backlog) if is_plain else BYTES_A_TURN  # a body of known length is cheap to parse
        part = bytes(self._backlog[:size])
        del self._backlog[:size]
        super().data_received(part)
        if self.transport.is_closing():
            return
        self.flow.hold(bool(self._backlog))
        if self._backlog:
            self.loop.call_soon(self._parse_some)

    def handle_events(self) -> None:
        if self.conn.their_state is h11.IDLE and (error := _header_error(self.conn.trailing_data[0])) is not None:
            self._refuse(error)
            return
        super().handle_events()
        if self.cycle is not None and not isinstance(self.cycle.transport, _ClosingTransport):
            self.cycle.transport = _ClosingTransport(self.transport, self._close)  # type: ignore[assignment]
        if self._is_lingering and self.conn.our_state is h11.DONE:
            return
        if self._is_lingering or self.conn.their_state is not h11.IDLE:
            self._is_lingering = False
            self._stop_timer()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._end_after(HEADER_TIMEOUT_S)

    def on_response_complete(self) -> None:
        if self._is_draining:
            self.server_state.total_requests += 1
            return
        if self.conn.their_state is h11.SEND_BODY:
            self._is_lingering = True
            self._end_after(LINGER_S)
        super().on_response_complete()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application. If it answers a chunked body early, the rest is not parsed: the connection closes."""
        scope.setdefault("extensions", {})["qwartet.abort"] = self.transport.abort

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self._is_chunked:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._inner_app(scope, receive, send_last)

    @property
    def _is_chunked(self) -> bool:
        """Whether a chunked body is being received."""
        is_body = self.conn.their_state is h11.SEND_BODY
        return is_body and any(name == b"transfer-encoding" for name, _ in self.headers or ())

    def _close(self) -> None:
        """Closes the connection after a response. A client that is still sending would see a reset and might lose the
        response, so it gets LINGER_S to stop, and its data is discarded."""
        if self.conn.their_state is not h11.SEND_BODY:
            self.transport.close()
            return
        self._is_draining = True
        self._backlog.clear()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.hold(False)
        self.flow.resume_reading()
        self._end_after(LINGER_S)

    def send_400_response(self, msg: str) -> None:
        """Answers input that is not valid HTTP; `msg` is uvicorn's."""
        if self.conn.num_chunks > MAX_CHUNKS:
            message = f"the body has more than {MAX_CHUNKS} chunks; send larger chunks"
            self._refuse(ApiError(413, message, code="too_many_chunks"))
            return
        self._refuse(ApiError(400, "not a valid HTTP request, or its headers are too long", code="invalid_http"))

    def _refuse(self, error: ApiError) -> None:
        body = json.dumps(error.to_dict()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
        ]
        reason = HTTPStatus(error.status).phrase.encode()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=error.status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _end_after(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Parser(h11.Connection):
    """h11's parser, which also counts the chunks of a body: each costs about 9 us, whatever its size."""

    num_chunks = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self.num_chunks += event.chunk_start
            if self.num_chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError("too many chunks")
        elif isinstance(event, h11.Request):
            self.num_chunks = 0
        return event


class _Flow(FlowControl):
    """uvicorn's flow control, which also stops reading while there is data to parse."""

    _is_wanted = True
    _is_held = False

    def pause_reading(self) -> None:
        self._is_wanted = False
        self._apply()

    def resume_reading(self) -> None:
        self._is_wanted = True
        self._apply()

    def hold(self, is_held: bool) -> None:
        """Stops reading, or allows it again, whatever uvicorn requests."""
        self._is_held = is_held
        self._apply()

    def _apply(self) -> None:
        if self._is_wanted and not self._is_held:
            super().resume_reading()
        else:
            super().pause_reading()


class _ClosingTransport:
    """The transport for a response, with another `close`."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, close


def _header_error(received: bytes) -> ApiError | None:
    """The error if the part of the headers received so far is too large."""
    end = _END_OF_HEAD.search(received)
    head = received if end is None else received[: end.start()]
    if len(head) > MAX_HEADER_BYTES:
        message = f"the headers exceed {MAX_HEADER_BYTES} bytes; send shorter ones"
        return ApiError(431, message, code="headers_too_long")
    if head.count(b"\n") > MAX_HEADERS:
        return ApiError(431, f"the request has more than {MAX_HEADERS} headers; send fewer", code="too_many_headers")
    return None
