"""Processes that sandboxed code has started, found from outside by a name that it gave them."""

from __future__ import annotations

from pathlib import Path

MARK = "left-by-a-candidate"


def marked_processes() -> list[str]:
    """Their ids."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if MARK.encode() in path.read_bytes().split(b"\0")[:1]:
                found.append(path.parent.name)
        except OSError:
            continue
    return found
