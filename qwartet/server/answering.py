"""An exchange as an HTTP response: one JSON object, or a stream of events.

    data: {"object": "chat.completion.chunk", ...}      a blank line ends an event
    : ping                                              a comment while there is no output
    data: {"error": {...}}                              why the stream ended early
    data: [DONE]                                        always last, except for /v1/responses

Events of /v1/responses also carry their type (`event: response.created`).

Whatever happens to the client or the server, the exchange is ended, which frees its blocks and its place in the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwartet.openai_api.error import ApiError
from qwartet.openai_api.exchange import Exchange
from qwartet.openai_api.responses_answer import ResponseEvent
from qwartet.server.json_answer import error_answer
from qwartet.server.service import Service
from qwartet.server.watch import Watch

MAX_NOTES_CHARS = 1000
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
NOTES_HEADER = "x-qwartet-notes"  # settings that the server accepted and ignored
EVENT_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would buffer events


class Answering(Response):
    """Answers one exchange and ends it."""

    def __init__(self, service: Service, exchange: Exchange, arrived_s: float) -> None:
        """`arrived_s`: when the request arrived, as time.monotonic()."""
        is_stream = exchange.request.stream is True
        super().__init__(
            status_code=200,
            headers=EVENT_HEADERS if is_stream else None,
            media_type="text/event-stream" if is_stream else "application/json",
        )
        del self.headers["content-length"]  # Starlette sets it for an empty body
        notes = "; ".join(exchange.prepared.notes)[:MAX_NOTES_CHARS]
        self._notes = {NOTES_HEADER: notes} if notes else {}
        self.headers.update(self._notes)
        self._service, self._exchange, self._arrived_s = service, exchange, arrived_s
        self._is_stream = is_stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        aborts = self._service.metrics.aborts
        work = asyncio.ensure_future(self._stream(scope, send) if self._is_stream else self._whole(scope, send))
        gone = asyncio.ensure_future(_wait_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                aborts.labels("disconnect").inc()
                work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self._service.end(self._exchange, self._arrived_s)
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def _whole(self, scope: Scope, send: Send) -> None:
        answer: Response
        try:
            answer = await self._exchange.whole(_json_answer)
            answer.headers.update(self._notes)
        except Exception as error:
            answer = error_answer(self._told(error))
        async with self._write_timeout(scope) as watch:
            watch.start()
            await answer(scope, _never_receive, send)

    async def _stream(self, scope: Scope, send: Send) -> None:
        async with self._write_timeout(scope) as writing:

            async def write(body: bytes, more: bool = True) -> None:
                writing.start()
                await send({"type": "http.response.body", "body": body, "more_body": more})
                writing.stop()

            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                await self._write_chunks(write)
            except Exception as error:
                await write(_event(self._exchange.broken_off(self._told(error))))
            await write(b"" if self._exchange.is_response else DONE, more=False)

    async def _write_chunks(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        is_silent = False

        def on_silence() -> None:
            nonlocal is_silent
            is_silent = True
            self._exchange.wake()

        chunks = self._exchange.chunks()
        with Watch(self._service.limits.ping_interval_s, on_silence) as silence:
            async with aclosing(chunks):
                silence.start()
                async for some in chunks:
                    body = b"".join(map(_event, some))
                    if body or is_silent:
                        await write(body or PING)
                        is_silent = False
                        silence.start()

    def _told(self, error: Exception) -> ApiError:
        endpoints = self._service.any_endpoints
        found = endpoints.api_error(error, self._exchange.request)
        self._service.metrics.aborts.labels(found.code or "error").inc()
        return found

    @asynccontextmanager
    async def _write_timeout(self, scope: Scope) -> AsyncGenerator[Watch]:
        """Disconnects a client that stops reading."""
        try:
            async with asyncio.timeout(None) as limit:
                with Watch(self._service.limits.write_timeout_s, lambda: limit.reschedule(0)) as watch:
                    yield watch
        except TimeoutError:
            self._service.metrics.aborts.labels("slow_reader").inc()
            scope.get("extensions", {}).get("qwartet.abort", lambda: None)()


def _json_answer(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _event(value: BaseModel) -> bytes:
    kind = b"event: %b\n" % value.type.encode() if isinstance(value, ResponseEvent) else b""
    return b"%bdata: %b\n\n" % (kind, value.model_dump_json(exclude_unset=True).encode())


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never_receive() -> Any:
    raise AssertionError("a response that reads")
