"""Memory before load: what a checkpoint will take in this process, and what there is."""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from qwartet.errors import OutOfMemoryError
from qwartet.layers.weight_stream import WeightStream
from qwartet.models.held_tensors import HeldTensor

CPU_BATCHED_TOKENS = 512  # of an engine's step, if nobody asks for another number
RESIDENT_FRACTION = 0.5  # of the free memory
_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def weights_bytes(held: Iterable[HeldTensor]) -> int:
    """Bytes of the weights once loaded."""
    return sum(tensor.nbytes for tensor in held)


def available_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; for the CPU, what the system would give without swapping to this process."""
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
    """What the control group of this process, a container's say, may still take; cached files count as free."""
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


def disk_read_speed(path: Path, num_bytes: int = 2**27) -> float | None:
    """Bytes a second that the disk gives when a file is read past the system's memory; None where it cannot be."""
    piece = mmap.mmap(-1, 2**24)  # page-aligned, as direct reading wants it
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except (OSError, AttributeError):
        return None
    try:
        started, done = time.perf_counter(), 0
        while done < num_bytes and (count := os.preadv(descriptor, [piece], done)) > 0:
            done += count
        return done / (time.perf_counter() - started) if done else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def fits_memory(needed: int, device: torch.device) -> bool:
    """Whether weights of `needed` bytes can stay in memory."""
    return needed <= available_bytes(device)


def resident_budget(device: torch.device) -> int:
    """Bytes for the weights that stay in memory where not all can; the KV cache takes from the rest."""
    return int(available_bytes(device) * RESIDENT_FRACTION)


def memory_error(directory: Path, needed: int, device: torch.device) -> OutOfMemoryError:
    """Says what weights of `needed` bytes lack, with the two figures."""
    return OutOfMemoryError(
        f"{directory}: the weights take {needed / 2**30:.2f} GiB and {available_bytes(device) / 2**30:.2f} GiB are "
        f"free on {device}; use a smaller or more quantised checkpoint, or force the load (--force), which may swap"
    )


def stream_forecast(stream: WeightStream, path: Path) -> str:
    """What reading weights from disk for every token comes to, for a warning."""
    speed, streamed = disk_read_speed(path), stream.streamed_bytes
    forecast = (
        f"{streamed / 2**30:.1f} GiB are read from disk for every token, or for every {CPU_BATCHED_TOKENS} of a prompt"
    )
    if speed is not None:
        forecast += f"; at the {speed / 1e9:.2f} GB/s of this disk that takes {streamed / speed:.1f} s"
    resident = f"{stream.num_resident} of {stream.num_layers} layers stay there"
    return f"the weights do not fit the memory: {resident}, {forecast}"
