"""An HTTP/1.1 client for benchmarks: it records when bytes arrive before it processes them.

h11 parses; connections are kept open and reused, as clients do. A general-purpose client takes several times as long
per event, and would be measured along with the server.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import h11

from qwartet.errors import SettingError

MAX_LINE_BYTES = 1 << 20  # of an event
MAX_BODY_BYTES = 16 << 20  # of a response that is not a stream
EVENT_STREAM = "text/event-stream"

OnEvent = Callable[[float, bytes], None]  # time.perf_counter() of its arrival, the text after "data:"


class BrokenAnswerError(Exception):
    """A response that is incomplete or malformed."""


@dataclass(frozen=True)
class Answer:
    """A response; the body of an event stream is empty."""

    status: int
    body: bytes = b""
    written_s: float = 0.0  # time.perf_counter() when the request was sent

    @property
    def is_ok(self) -> bool:
        return self.status == 200


class HttpClient:
    """Requests to one server, from one event loop; a context, which closes its connections."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        """`url`: http or https, with or without the /v1 of OpenAI's clients; SettingError for anything else."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _no_url(url) from None
        is_server = parts.scheme in ("http", "https") and port != 0
        if not is_server or not parts.hostname or parts.query or parts.fragment:
            raise _no_url(url)
        self._host = parts.hostname
        self._port = {"http": 80, "https": 443}[parts.scheme] if port is None else port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = [("host", parts.netloc.rpartition("@")[2]), *(headers or {}).items()]
        self._idle: list[_Connection] = []

    async def get(self, path: str) -> Answer:
        """Raises what `post` raises."""
        return await self._request("GET", path, b"", None)

    async def post(self, path: str, body: bytes, on_event: OnEvent | None = None) -> Answer:
        """Sends JSON; the events of a stream are passed to `on_event` as they arrive.

        OSError without a connection, BrokenAnswerError for an incomplete response.
        """
        return await self._request("POST", path, body, on_event)

    async def _request(self, method: str, path: str, body: bytes, on_event: OnEvent | None) -> Answer:
        headers = [*self._headers, ("content-length", str(len(body))), ("accept", f"application/json, {EVENT_STREAM}")]
        if body:
            headers.append(("content-type", "application/json"))
        request = h11.Request(method=method, target=self._prefix + path, headers=headers)
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._exchange(connection, request, body, on_event)
            except _ClosedWhileIdleError:
                continue  # the server may close an idle connection
        return await self._exchange(await self._connect(), request, body, on_event)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        return connection

    async def _exchange(
        self, connection: _Connection, request: h11.Request, body: bytes, on_event: OnEvent | None
    ) -> Answer:
        try:
            answer = await connection.exchange(request, body, on_event)
        except BaseException:
            connection.close()
            raise
        if connection.can_be_used_again:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            self._idle.pop().close()


def _no_url(url: str) -> SettingError:
    return SettingError(f"{url!r:.200} is not the URL of a server; use one such as http://127.0.0.1:8000")


class _ClosedWhileIdleError(BrokenAnswerError):
    """A reused connection was closed before any part of a response arrived."""


class _Connection(asyncio.Protocol):
    """One connection, one exchange after the other."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._num_exchanges = 0
        self._is_closed = False
        self._ending: asyncio.Future[Answer] | None = None
        self._begin(None)

    def _begin(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event
        self._status = 0
        self._is_stream = False
        self._unread = bytearray()  # of a line, or of a body

    @property
    def can_be_used_again(self) -> bool:
        return not self._is_closed and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def exchange(self, request: h11.Request, body: bytes, on_event: OnEvent | None) -> Answer:
        """Sends a request and reads its response."""
        if self._is_closed:
            raise _ClosedWhileIdleError("closed while idle")
        assert self._transport is not None, "connection_made comes first"
        if self._num_exchanges:
            self._http.start_next_cycle()
        self._num_exchanges += 1
        self._begin(on_event)
        self._ending = asyncio.get_running_loop().create_future()
        parts = [self._http.send(request), self._http.send(h11.Data(body)), self._http.send(h11.EndOfMessage())]
        written_s = time.perf_counter()
        self._transport.write(b"".join(part or b"" for part in parts))
        return replace(await self._ending, written_s=written_s)

    def close(self) -> None:
        """Closes at once, without waiting for an exchange in progress."""
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._take(data, time.perf_counter())

    def eof_received(self) -> None:
        self._take(b"", time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        self._fail(f"the connection was lost ({exc or 'closed'})")

    def _take(self, data: bytes, now_s: float) -> None:
        if self._ending is None or self._ending.done():
            self.close()  # no request is pending
            return
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                self._handle(event, now_s)
        except (h11.RemoteProtocolError, _TooLongError) as error:
            self._fail(str(error))
            self.close()

    def _handle(self, event: object, now_s: float) -> None:
        if isinstance(event, h11.Response):
            self._status = event.status_code
            kind = dict(event.headers).get(b"content-type", b"").decode("latin-1")
            self._is_stream = kind.startswith(EVENT_STREAM) and self._on_event is not None
        elif isinstance(event, h11.Data):
            self._unread += event.data
            if self._is_stream:
                self._take_lines(now_s)
            elif len(self._unread) > MAX_BODY_BYTES:
                raise _TooLongError("the answer is too long")
        elif isinstance(event, h11.EndOfMessage) and self._ending is not None and not self._ending.done():
            self._ending.set_result(Answer(self._status, b"" if self._is_stream else bytes(self._unread)))

    def _take_lines(self, now_s: float) -> None:
        assert self._on_event is not None, "only streams have lines"
        *lines, rest = self._unread.split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise _TooLongError("a line of the stream is too long")
        self._unread = rest
        for line in lines:
            if line.startswith(b"data:"):
                self._on_event(now_s, bytes(line[5:]).strip())

    def _fail(self, reason: str) -> None:
        if self._ending is not None and not self._ending.done():
            was_kept = self._num_exchanges > 1 and not self._status
            self._ending.set_exception((_ClosedWhileIdleError if was_kept else BrokenAnswerError)(reason))


class _TooLongError(Exception):
    """A line or body exceeds its limit."""
