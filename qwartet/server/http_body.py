"""Reads the JSON body of an HTTP request, within limits."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from qwartet.openai_api.error import ApiError
from qwartet.openai_api.json_body import parse_json
from qwartet.server.limits import MAX_JSON_MARKS, Limits


async def read_json_body(request: Request, limits: Limits) -> bytes:
    """The bytes of a JSON body; ApiError if it has another type, or is too large or too slow.

    A page of another origin cannot send application/json without a preflight, so checking the type is also a guard.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        shown = f"{content_type!r:.60}" if content_type else "missing"
        raise ApiError(415, f"the content type is {shown}; send application/json", code="unsupported_media_type")
    if ",".join(request.headers.getlist("content-encoding")).strip().lower() not in ("", "identity"):
        raise ApiError(415, "the body is compressed; send it uncompressed", code="unsupported_media_type")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.max_body_bytes:
        raise _too_long(limits)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _read(request, limits)
    except TimeoutError:
        message = f"timed out reading the request body after {limits.body_timeout_s:g} s; send it faster"
        raise ApiError(408, message, code="body_timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "the connection was closed before the body was complete", code="disconnected") from None


def json_of(raw: bytes) -> Any:
    """The value of a body; ApiError if it is not valid JSON or is more complex than any request needs."""
    num_marks = sum(map(raw.count, (b"[", b"{", b":")))
    if num_marks > MAX_JSON_MARKS:
        message = f"the body has {num_marks} of the characters [ {{ :, and the limit is {MAX_JSON_MARKS}; send fewer"
        raise ApiError(400, message, code="invalid_json")
    try:
        return parse_json(raw)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None


async def _read(request: Request, limits: Limits) -> bytes:
    body = bytearray()  # a list of one-byte pieces would take forty times the memory
    async for part in request.stream():
        if len(body) + len(part) > limits.max_body_bytes:
            raise _too_long(limits)
        body += part
    return bytes(body)


def _too_long(limits: Limits) -> ApiError:
    message = f"the body exceeds {limits.max_body_bytes} bytes (--max-body); send a smaller one"
    return ApiError(413, message, code="body_too_long")
