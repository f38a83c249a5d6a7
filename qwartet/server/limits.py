"""Limits on requests: sizes, counts and timeouts."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated

from qwartet.errors import SettingError

MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 * 1024
MAX_PATH_CHARS = 1024
MAX_CHUNKS = 20_000  # of a body: about 0.2 s of work, whatever their size
# Lists, objects and keys: a 2 MB body can hold 700,000, and parsing those blocks all other requests.
MAX_JSON_MARKS = 50_000
_MAY_BE_0 = ("shutdown_timeout_s", "max_queue", "response_store_bytes")
_COUNTS = ("max_body_bytes", "max_queue", "max_connections", "max_completions")


@dataclass(frozen=True)
class Limits:
    """The limits of one server. A request beyond one is rejected with an error that states the limit.

    The texts appear in `qwartet serve --help`.
    """

    max_queue: Annotated[int, "Completions allowed to wait in the queue; more are rejected with 429."] = 64
    max_connections: Annotated[int, "Requests that may be open at once."] = 256
    max_completions: Annotated[int, "Completions per request."] = 8  # n, or prompts times n
    max_body_bytes: Annotated[int, "Size limit of a request body in bytes."] = 2 << 20
    response_store_bytes: Annotated[int, "Bytes of memory for stored responses; 0 stores none."] = 64 << 20
    request_timeout_s: Annotated[float, "Seconds allowed for a complete answer."] = 600.0
    queue_timeout_s: Annotated[float, "Seconds a request may wait in the queue."] = 60.0
    body_timeout_s: Annotated[float, "Seconds allowed to receive a request."] = 30.0
    write_timeout_s: Annotated[float, "Disconnect clients that stop reading for this many seconds."] = 30.0
    ping_interval_s: Annotated[float, "Seconds between keep-alive comments in an idle stream."] = 15.0
    keep_alive_s: Annotated[float, "Seconds an idle connection stays open."] = 5.0
    shutdown_timeout_s: Annotated[float, "Grace period in seconds for running requests at shutdown."] = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, name = getattr(self, field.name), field.name
            low = 0 if name in _MAY_BE_0 else 1 if name in _COUNTS else 0.001
            if not (math.isfinite(value) and low <= value <= 1e9):
                raise SettingError(f"{name} is {value}; it must be between {low} and 1000000000")
