"""HTTP/1.1 connections: uvicorn's, with limits on headers and framing, and errors in OpenAI's shape.

uvicorn waits for a request's headers as long as the client likes, goes on reading a body that was answered already, and
closes a connection only once everything that was written to it has been read. Each would let a client hold a descriptor
for ever. Its parser limits headers that are not whole yet, but not those that come at once, nor their number; and it
parses whatever has come in one turn of the event loop: a body in chunks of one byte holds up everybody for seconds.
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
LINGER_S = 5.0  # in which a client may still send a body that was answered before its end
BYTES_A_TURN = 8 << 10  # that are parsed before others are served: 1,400 chunks of a byte, some 12 ms
_END_OF_HEAD = re.compile(rb"\n\r?\n")


class Connection(H11Protocol):
    """One client's connection; gives the application `scope["extensions"]["qwartet.abort"]`, which ends it at once."""

    flow: _Flow
    conn: _Parser
    _timer: asyncio.TimerHandle | None = None  # ends the connection, unless what it waits for comes
    _is_lingering = False
    _is_draining = False  # what still comes is thrown away

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Parser(h11.SERVER, MAX_HEADER_BYTES)
        self._inner_app, self.app = self.app, self._serve
        self._backlog = bytearray()  # what has come and is not parsed yet

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
        size = len(self._backlog) if is_plain else BYTES_A_TURN  # a body of known length is no work to parse
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
        """The application; a body in chunks that it answers before their end is not parsed on, so nothing follows."""
        scope.setdefault("extensions", {})["qwartet.abort"] = self.transport.abort

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self._is_chunked:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._inner_app(scope, receive, send_last)

    @property
    def _is_chunked(self) -> bool:
        """Whether a body in chunks is under way."""
        is_body = self.conn.their_state is h11.SEND_BODY
        return is_body and any(name == b"transfer-encoding" for name, _ in self.headers or ())

    def _close(self) -> None:
        """Ends the connection behind a response. A client that is still sending would be told by a reset, which may
        cost it the response: it has LINGER_S to stop, and what it sends is thrown away."""
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
        """Tells a client that does not speak HTTP so; `msg` is uvicorn's."""
        if self.conn.num_chunks > MAX_CHUNKS:
            message = f"the body comes in more than {MAX_CHUNKS} chunks; send larger ones"
            self._refuse(ApiError(413, message, code="too_many_chunks"))
            return
        self._refuse(ApiError(400, "this is no HTTP request, or its headers are too long", code="invalid_http"))

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
    """h11's, which counts the chunks of a body: each costs some 9 us, whatever is in it."""

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
    """uvicorn's, which also does not read while there is something to parse."""

    _is_wanted = True
    _is_held = False

    def pause_reading(self) -> None:
        self._is_wanted = False
        self._apply()

    def resume_reading(self) -> None:
        self._is_wanted = True
        self._apply()

    def hold(self, is_held: bool) -> None:
        """Whether reading has to wait, whoever wants it."""
        self._is_held = is_held
        self._apply()

    def _apply(self) -> None:
        if self._is_wanted and not self._is_held:
            super().resume_reading()
        else:
            super().pause_reading()


class _ClosingTransport:
    """What a response is written to; `close` is what ends it."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, close


def _header_error(received: bytes) -> ApiError | None:
    """What is wrong with the size of a request's head, as far as it was received."""
    end = _END_OF_HEAD.search(received)
    head = received if end is None else received[: end.start()]
    if len(head) > MAX_HEADER_BYTES:
        message = f"the headers have more than {MAX_HEADER_BYTES} bytes; send less"
        return ApiError(431, message, code="headers_too_long")
    if head.count(b"\n") > MAX_HEADERS:
        return ApiError(431, f"there are more than {MAX_HEADERS} headers; send fewer", code="too_many_headers")
    return None
