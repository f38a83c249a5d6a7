"""Who may use the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")  # names of a server on this machine


@dataclass(frozen=True)
class Access:
    """API keys and host names that are accepted."""

    api_keys: Sequence[str] = field(default=(), repr=False)
    allowed_hosts: Sequence[str] | None = None  # accepted in the Host header, without port; None: any
