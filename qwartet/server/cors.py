"""CORS: pages from `--allowed-origins` may use the API, without credentials."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Send

EXPOSED = ("x-request-id", "retry-after", "x-qwartet-notes")


class Cors(CORSMiddleware):
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp, allowed_origins: Sequence[str]) -> None:
        """All request headers are allowed: SDKs add new ones all the time, and none grants access here."""
        super().__init__(
            app, allow_origins=allowed_origins, allow_methods=["DELETE", "GET", "HEAD", "POST"], allow_headers=["*"],
            expose_headers=EXPOSED, allow_private_network=True,
        )  # fmt: skip

    async def send(self, message: Message, send: Send, request_headers: Headers) -> None:
        async def send_to_allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "access-control-allow-origin" not in headers:
                    del headers["access-control-expose-headers"]
            await send(message)

        await super().send(message, send_to_allowed, request_headers)
