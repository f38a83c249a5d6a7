"""Who may use a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")  # what a server on this machine is called


@dataclass(frozen=True)
class Access:
    """Who is let in."""

    api_keys: Sequence[str] = field(default=(), repr=False)
    allowed_hosts: Sequence[str] | None = None  # names in the Host header, without port; None: any
