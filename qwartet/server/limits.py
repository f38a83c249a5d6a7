"""How much a client may ask for, and how long anything may take."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated

from qwartet.errors import SettingError

MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 * 1024
MAX_PATH_CHARS = 1024
MAX_CHUNKS = 20_000  # of a body: about 0.2 s of work, however little is in them
# Lists, objects and keys: a body of 2 MB holds 700,000 of them, and nobody else is served while they are made.
MAX_JSON_MARKS = 50_000
_MAY_BE_0 = ("shutdown_timeout_s", "max_queue", "response_store_bytes")
_COUNTS = ("max_body_bytes", "max_queue", "max_connections", "max_completions")


@dataclass(frozen=True)
class Limits:
    """Of one server. What goes beyond them is refused with an error that names the number.

    The texts are those of `qwartet serve --help`.
    """

    max_queue: Annotated[int, "Completions that may wait; one more is answered 429."] = 64
    max_connections: Annotated[int, "Requests that are answered at once."] = 256
    max_completions: Annotated[int, "Completions of one request."] = 8  # n, or prompts times n
    max_body_bytes: Annotated[int, "Bytes of a request."] = 2 << 20
    response_store_bytes: Annotated[int, "Memory for responses that later requests may name; 0 stores none."] = 64 << 20
    request_timeout_s: Annotated[float, "Seconds for an answer as a whole."] = 600.0
    queue_timeout_s: Annotated[float, "Seconds until an answer is begun."] = 60.0
    body_timeout_s: Annotated[float, "Seconds in which a request has to be here."] = 30.0
    write_timeout_s: Annotated[float, "Seconds in which a client has to read what was sent."] = 30.0
    ping_interval_s: Annotated[float, "Seconds between signs of life in a silent stream."] = 15.0
    keep_alive_s: Annotated[float, "Seconds that a connection stays open between requests."] = 5.0
    shutdown_timeout_s: Annotated[float, "Seconds for open answers when told to stop."] = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, name = getattr(self, field.name), field.name
            low = 0 if name in _MAY_BE_0 else 1 if name in _COUNTS else 0.001
            if not (math.isfinite(value) and low <= value <= 1e9):
                raise SettingError(f"{name} is {value}; it must lie in {low}..1000000000")
