"""Numbers as people write and read them."""

from __future__ import annotations

import re

from qwartet.errors import SettingError

# As in the field: a small letter counts in thousands, a capital in 1024s.
_MULTIPLES = {"": 1, "k": 1000, "K": 1 << 10, "m": 1000**2, "M": 1 << 20}
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmM]?)", re.ASCII)


def parse_count(text: str) -> int:
    """Whole number from "4096", "32k" (32,000) or "32K" (32,768); SettingError for anything else, zero included."""
    match = _COUNT.fullmatch(text.strip())
    count = float(match[1]) * _MULTIPLES[match[2]] if match else 0.0
    if not 1 <= count < 2**53 or count != int(count):
        raise SettingError(f"{text!r} is not a whole number of at least 1; write 4096, 32k (32,000) or 32K (32,768)")
    return int(count)


_GPU_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(M|G|T)i?B?", re.IGNORECASE | re.ASCII)


def parse_gpu_memory(text: str) -> int:
    """Bytes from "48GiB", "48 GB" or "48g"; GB means GiB, as GPU vendors use it. SettingError for anything else."""
    match = _GPU_SIZE.fullmatch(text.strip())
    size = float(match[1]) * 2 ** {"m": 20, "g": 30, "t": 40}[match[2].lower()] if match else 0.0
    if not 2**20 <= size < 2**53:
        raise SettingError(f"{text!r} is not a memory size; write 48GiB or 80GB")
    return int(size)


def format_bytes(num_bytes: int) -> str:
    """Size with three digits: "412 B", "5.1 MiB", "38.4 GiB"."""
    size, unit = float(num_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1000 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def format_count(count: int) -> str:
    """Count with three digits: "812", "3.2 M", "72.3 B"."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return str(count)


def format_seconds(seconds: float) -> str:
    """Duration to about two digits: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
