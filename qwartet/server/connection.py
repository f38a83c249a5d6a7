"""HTTP/1.1 connections: uvicorn's, with time limits on headers, and errors in OpenAI's shape.

uvicorn waits for a request's headers as long as the client likes, and closes a connection only once everything that was
written to it has been read. Both would let a client hold a descriptor for ever.
"""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qwartet.server.api_error import ApiError

HEADER_TIMEOUT_S = 30.0


class Connection(H11Protocol):
    """One client's connection; gives the application `scope["extensions"]["qwartet.abort"]`, which ends it at once."""

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:
            self.scope.setdefault("extensions", {})["qwartet.abort"] = self.transport.abort  # type: ignore[typeddict-item]
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self.conn.trailing_data[0]:
            self._watch_headers()

    def send_400_response(self, msg: str) -> None:
        """Tells a client that does not speak HTTP so; `msg` is uvicorn's."""
        error = ApiError(400, "this is no HTTP request, or its headers are too long", code="invalid_http")
        body = json.dumps(error.to_dict()).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
