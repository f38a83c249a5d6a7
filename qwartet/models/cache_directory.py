"""Where Qwartet keeps what it can make again (repacked weights, measured ceilings), and what only its user can."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """$QWARTET_CACHE, else $XDG_CACHE_HOME/qwartet, else ~/.cache/qwartet; it need not exist yet."""
    if own := os.environ.get("QWARTET_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qwartet"


def state_directory() -> Path:
    """Where is kept what only its user can make again, as lines that were entered: $XDG_STATE_HOME/qwartet, else
    ~/.local/state/qwartet; it need not exist yet.
    """
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "qwartet"
