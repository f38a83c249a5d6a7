"""Memory before load: what a checkpoint will take in this process, and what there is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from qwartet.errors import OutOfMemoryError
from qwartet.models.held_tensors import HeldTensor


def weights_bytes(held: Iterable[HeldTensor]) -> int:
    """Bytes of the weights once loaded."""
    return sum(tensor.nbytes for tensor in held)


def available_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; for the CPU, what the kernel would give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def check_memory(directory: Path, needed: int, device: torch.device) -> None:
    """OutOfMemoryError with the two figures when weights of `needed` bytes cannot fit."""
    available = available_bytes(device)
    if needed > available:
        raise OutOfMemoryError(
            f"{directory}: the weights take {needed / 2**30:.2f} GiB and {available / 2**30:.2f} GiB are "
            f"free on {device}; use a smaller or more quantised checkpoint, or force the load (--force), which may swap"
        )
