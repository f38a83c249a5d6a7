"""How much a client may ask for, and how long anything may take."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from qwartet.errors import SettingError

MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 * 1024
MAX_PATH_CHARS = 1024
# Lists, objects and keys: a body of 2 MB holds 700,000 of them, and nobody else is served while they are made.
MAX_JSON_MARKS = 50_000
KEEP_ALIVE_S = 5

_COUNTS = ("max_body_bytes", "max_queue", "max_connections", "max_completions")


@dataclass(frozen=True)
class Limits:
    """Of one server. What goes beyond them is refused with an error that names the number."""

    max_body_bytes: int = 2 << 20
    max_queue: int = 64  # completions that wait for a place in the engine; one more is answered 429
    max_connections: int = 256  # requests that are being answered, whatever they ask for
    max_completions: int = 8  # of one request: n, or prompts times n
    request_timeout_s: float = 600.0  # from its arrival to its last token
    queue_timeout_s: float = 60.0  # until the engine begins with it
    body_timeout_s: float = 30.0  # until its body is here
    write_timeout_s: float = 30.0  # that a client may take to read what was sent
    ping_interval_s: float = 15.0  # between signs of life in a stream that has nothing to say
    shutdown_timeout_s: float = 30.0  # for what is open when the server is told to stop

    def __post_init__(self) -> None:
        for field in fields(self):
            value, name = getattr(self, field.name), field.name
            low = 0 if name in ("shutdown_timeout_s", "max_queue") else 1 if name in _COUNTS else 0.001
            if not (math.isfinite(value) and low <= value <= 1e9):
                raise SettingError(f"{name} is {value}; it must lie in {low}..1000000000")
