"""HTTP/1.1 connections: uvicorn's, with limits on headers, and errors in OpenAI's shape.

uvicorn waits for a request's headers as long as the client likes, goes on reading a body that was answered already, and
closes a connection only once everything that was written to it has been read. Each would let a client hold a descriptor
for ever. Its parser limits headers that are not whole yet, but not those that come at once, nor their number.
"""

from __future__ import annotations

import asyncio
import json
import re
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qwartet.openai_api.error import ApiError
from qwartet.server.limits import MAX_HEADER_BYTES, MAX_HEADERS

HEADER_TIMEOUT_S = 30.0
LINGER_S = 5.0  # in which a client may still send a body that was answered before its end
_END_OF_HEAD = re.compile(rb"\n\r?\n")


class Connection(H11Protocol):
    """One client's connection; gives the application `scope["extensions"]["qwartet.abort"]`, which ends it at once."""

    _timer: asyncio.TimerHandle | None = None  # ends the connection, unless what it waits for comes
    _is_lingering = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end_after(HEADER_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        if self.conn.their_state is h11.IDLE and (error := _header_error(self.conn.trailing_data[0])) is not None:
            self._refuse(error)
            return
        super().handle_events()
        if self.scope is not None:
            extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
            extensions["qwartet.abort"] = self.transport.abort
        if self._is_lingering and self.conn.our_state is h11.DONE:
            return
        if self._is_lingering or self.conn.their_state is not h11.IDLE:
            self._is_lingering = False
            self._stop_timer()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._end_after(HEADER_TIMEOUT_S)

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self._is_lingering = True
            self._end_after(LINGER_S)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Tells a client that does not speak HTTP so; `msg` is uvicorn's."""
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
