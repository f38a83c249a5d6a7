"""The body of an HTTP request, read within limits; JSON and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from qwartet.openai_api.error import ApiError
from qwartet.openai_api.json_body import parse_json
from qwartet.server.limits import MAX_JSON_MARKS, Limits


async def read_json_body(request: Request, limits: Limits) -> bytes:
    """The bytes of a JSON body; ApiError for another type, for one that is too long or too slow.

    A page of another origin cannot send application/json unasked, so the type is a guard as well.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        shown = f"{content_type!r:.60}" if content_type else "missing"
        raise ApiError(415, f"the content type is {shown}; send application/json", code="unsupported_media_type")
    if ",".join(request.headers.getlist("content-encoding")).strip().lower() not in ("", "identity"):
        raise ApiError(415, "the body is compressed; send it as it is", code="unsupported_media_type")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.max_body_bytes:
        raise _too_long(limits)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _read(request, limits)
    except TimeoutError:
        message = f"the body was not here after {limits.body_timeout_s:g} s; send it faster"
        raise ApiError(408, message, code="body_timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "the connection was closed before the body was here", code="disconnected") from None


def json_of(raw: bytes) -> Any:
    """The value of a body; ApiError where it is no JSON, or more of it than any request needs."""
    num_marks = sum(map(raw.count, (b"[", b"{", b":")))
    if num_marks > MAX_JSON_MARKS:
        message = f"the body has {num_marks} of the characters [ {{ : and at most {MAX_JSON_MARKS} are read; send fewer"
        raise ApiError(400, message, code="invalid_json")
    try:
        return parse_json(raw)
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="invalid_json") from None


async def _read(request: Request, limits: Limits) -> bytes:
    body = bytearray()  # a list of bytes in pieces of one would take forty times as much
    async for part in request.stream():
        if len(body) + len(part) > limits.max_body_bytes:
            raise _too_long(limits)
        body += part
    return bytes(body)


def _too_long(limits: Limits) -> ApiError:
    message = f"the body has more than {limits.max_body_bytes} bytes; send less (--max-body sets the limit)"
    return ApiError(413, message, code="body_too_long")
