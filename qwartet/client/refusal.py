"""A refused request or a failed connection as one line: what happened and what to do."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Collection
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from qwartet.errors import PromptTooLongError, ServerError

MAX_TOLD_CHARS = 300  # of the server's message

_TOO_LONG = re.compile(r"context|too long|maximum.*tokens", re.IGNORECASE)


def failure_line(address: str, error: Exception, silence_s: float) -> str:
    """The line for a connection that failed."""
    if isinstance(error, ConnectionRefusedError):
        return f"{address}: connection refused; start the server (qwartet serve) or check the address"
    if isinstance(error, socket.gaierror | UnicodeError):  # UnicodeError: not a valid host name
        return f"{address}: no such host; check the address"
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message.rstrip(".")
        return f"{address}: the certificate is not trusted ({reason}); set SSL_CERT_FILE to the certificate to trust"
    if isinstance(error, ssl.SSLError):
        return f"{address}: TLS failed ({error.reason}); is it an http:// address?"
    if isinstance(error, TimeoutError):
        return f"{address}: no data for {silence_s:g} s; try again, or raise --timeout"
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
        return f"{address}: the response is not HTTP; check the address"
    if isinstance(error, OSError) and not isinstance(error, ConnectionError) and error.strerror:
        return f"{address}: {error.strerror}; check the address and the network"
    return f"{address}: the connection was lost; try again, and check the server's log"


def refusal(
    address: str, status: int, headers: http.client.HTTPMessage, body: bytes, fields: Collection[str] = ()
) -> ServerError:
    """The error for a response other than 200; `fields` are the optional fields of the request."""
    told, param = told_in(body)
    words = f" ({told})" if told else ""
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(told)):
        return PromptTooLongError(f"{address}: the conversation is too long{words}; shorten it or lower max_tokens")
    if status in (400, 422):
        return ServerError(f"{address}: rejected the request{words}; {_what_to_change(told, param, fields)}")
    return ServerError(f"{address}: {_refusal_line(status, headers, told)}")


def _refusal_line(status: int, headers: http.client.HTTPMessage, told: str) -> str:
    words = f" ({told})" if told else ""
    if status in (401, 403):
        return "the API key is missing or was rejected; set QWARTET_API_KEY or --api-key"
    if 300 <= status < 400:
        target = headers.get("Location") or "another address"
        return f"redirects to {target[:MAX_TOLD_CHARS]}, but redirects are not followed; use that URL instead"
    if status == 404:
        return f"no such model or path{words}; check the model name and the URL (the part before /v1)"
    if status == 429:
        return f"busy{words}; {_when(headers)}"
    if status == 503:
        return f"not ready{words}; {_when(headers)}"
    reason = http.client.responses.get(status, "no reason given")
    return f"answered {status} ({told or reason}); try again, and check the server's log"


def told_in(body: bytes) -> tuple[str, str]:
    """The message of an error body and the field at fault, in OpenAI's, FastAPI's or an older form; or empty."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    return told_by(found)


def told_by(found: Any) -> tuple[str, str]:
    """The same for a parsed error body."""
    param = ""
    for _ in range(3):  # {"error": {"message": ...}}, {"detail": [{"msg": ...}]}, {"message": ...}, or a text
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, dict):
            location = found.get("param") or found.get("loc") or param
            param = ".".join(map(str, location)) if isinstance(location, list) else str(location)
            keys = (key for key in ("error", "message", "detail", "msg") if found.get(key))
            found = found.get(next(keys, ""), "")
    text = " ".join(found.split()) if isinstance(found, str) else ""
    return (text if len(text) <= MAX_TOLD_CHARS else f"{text[:MAX_TOLD_CHARS]}..."), param[:MAX_TOLD_CHARS]


def _what_to_change(told: str, param: str, fields: Collection[str]) -> str:
    named = [field for field in fields if re.search(rf"(?<!\w){re.escape(field)}(?!\w)", f"{param} {told}")]
    if named:
        return f"leave out {' and '.join(named)}, or change the value"
    return f"optional fields sent: {', '.join(fields)}" if fields else "see the server's documentation"


def _when(headers: http.client.HTTPMessage) -> str:
    """When to try again according to Retry-After, which is seconds or a date."""
    value = (headers.get("Retry-After") or "").strip()
    seconds: float | None = None
    if re.fullmatch(r"\d{1,9}", value, re.ASCII):
        seconds = int(value)
    elif value:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):  # not a date, or one without a time zone
            seconds = None
    return "try again later" if seconds is None else f"try again in {max(round(seconds), 1)} s"
