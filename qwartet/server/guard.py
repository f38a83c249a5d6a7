"""Checks every request: host, API key, path, number of open requests; and writes one log line for it.

If keys are set, every path except PUBLIC requires one: a new route is closed until it is listed here.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwartet.openai_api import log
from qwartet.openai_api.error import ApiError, internal_error
from qwartet.server.access import Access
from qwartet.server.json_answer import error_answer
from qwartet.server.limits import MAX_PATH_CHARS
from qwartet.server.service import Service

PUBLIC = frozenset({"/", "/health", "/health/live", "/health/ready", "/favicon.ico"})
PUBLIC_PREFIX = "/static/"
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
}
_ENDS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)  # not caused by a request
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class Guard:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, service: Service, access: Access, *, root_path: str, has_access_log: bool) -> None:
        """`root_path`: the path under which a proxy exposes the server, whether or not the proxy removes it."""
        self._app, self._service, self._has_access_log = app, service, has_access_log
        self._root_path = root_path.rstrip("/")
        self._hosts = None if access.allowed_hosts is None else {host.lower() for host in access.allowed_hosts}
        self._key_hashes = [_hash(key.encode()) for key in access.api_keys]
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._serve(scope, receive, send)
            except BaseException as error:
                if isinstance(error, _ENDS):
                    raise
                log.log_failure("a response", error)
                # uvicorn logs an exception raised here with its text and its causes.
                raise ConnectionAbortedError("a response was cut off; see above") from None
        # uvicorn answers a WebSocket with 403 if no application accepts it.

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, started_s, status = Headers(scope=scope), time.monotonic(), 0
        asked_id = headers.get("x-request-id", "")
        request_id = asked_id if _REQUEST_ID.fullmatch(asked_id) else secrets.token_hex(8)
        log.request_id.set(request_id)
        scope["root_path"] = self._root_path
        scope.setdefault("state", {}).update(arrived_s=started_s, request_id=request_id, cache_salt="")
        _cut_trailing_slash(scope)
        is_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if is_head else scope  # the same answer without its body

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    out.setdefault(name, value)
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        self._num_open += 1
        try:
            self._check(scope, headers)
            await self._app(inner, receive, send_guarded)
        except ApiError as error:
            await error_answer(error)(scope, receive, send_guarded)
        except BaseException as error:  # a panic in native code is not an Exception
            if isinstance(error, _ENDS) or status:
                raise  # or the answer has begun and can only be cut off
            log.log_failure("a route", error)
            await error_answer(internal_error())(scope, receive, send_guarded)
        finally:
            self._num_open -= 1
            route = getattr(inner.get("route"), "path", "other")
            self._service.metrics.http_requests.labels(route, str(status)).inc()
            if self._has_access_log:
                self._log(scope, status, time.monotonic() - started_s, request_id)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """ApiError if the request is not allowed. Sets the salt that separates the cached prompts of different keys."""
        if len(scope["path"]) > MAX_PATH_CHARS:
            raise ApiError(414, f"the path is longer than {MAX_PATH_CHARS} characters; see /docs", code="path_too_long")
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy may use the other one, and take part of this body for the next client's request.
            message = "the request has both Content-Length and Transfer-Encoding; send only one of them"
            raise ApiError(400, message, code="invalid_http")
        hosts = headers.getlist("host")
        if self._hosts is not None and (len(hosts) != 1 or _host_name(hosts[0]) not in self._hosts):
            message = "Host header not allowed; start the server with --allowed-hosts to allow other names"
            raise ApiError(403, message, code="host_not_allowed")
        path = _route_path(scope)
        is_public = path in PUBLIC or path.startswith(PUBLIC_PREFIX)
        if self._key_hashes and not is_public:
            scope["state"]["cache_salt"] = self._check_key(headers)
        if self._num_open > self._service.limits.max_connections and not is_public:
            message = f"{self._service.limits.max_connections} requests are already open; try again later"
            raise ApiError(503, message, code="too_many_connections", retry_after_s=1)

    def _check_key(self, headers: Headers) -> str:
        """A hash of the key that was sent; all keys are compared, each in constant time."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        sent = _hash(key.strip().encode("latin-1", "replace"))
        matches = [hmac.compare_digest(sent, known) for known in self._key_hashes]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(
                401, "the API key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key"
            )
        return sent.hex()

    def _log(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        client = scope.get("client") or ("unix", 0)
        # The path is escaped, so that it cannot end the line or control a terminal. Queries may contain secrets.
        log.logger.info(
            "%s %s %s %d %.1f ms %s", client[0], scope["method"], ascii(scope["path"])[:200], status, 1000 * seconds,
            request_id,
        )  # fmt: skip


def _hash(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _route_path(scope: Scope) -> str:
    """The path that the router sees: without the root path, if the proxy left that in."""
    path, root = str(scope["path"]), str(scope["root_path"])
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _cut_trailing_slash(scope: Scope) -> None:
    """Runs before any check, so that checks and router see the same path."""
    if _route_path(scope) != "/" and scope["path"].endswith("/") and not _route_path(scope).startswith(PUBLIC_PREFIX):
        scope["path"] = scope["path"][:-1]


def _host_name(host: str) -> str:
    """The name in a Host header, in lower case and without the port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
