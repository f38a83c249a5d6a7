"""How much memory is free on a device?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def available_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; for the CPU, what this process can get without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_system_bytes(), _group_bytes())


def _system_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _group_bytes() -> int:
    """Free memory of this process's control group, e.g. a container; cached files count as free."""
    free = sys.maxsize
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup") / controllers
        names = ("memory.max", "memory.current") if not controllers else _V1_FILES
        for place in (root / group.lstrip("/"), root):
            limit, used = (next(_lines(place / name), "") for name in names)
            if limit.isdigit() and used.isdigit():
                statistics = dict(entry.split(" ", 1) for entry in _lines(place / "memory.stat") if " " in entry)
                cached = sum(int(statistics.get(key, 0)) for key in ("inactive_file", "active_file"))
                free = min(free, max(int(limit) - int(used) + cached, 0))
                break
    return free


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return
