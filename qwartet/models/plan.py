"""Memory before load: what a checkpoint will take in this process, and what there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from qwartet.errors import OutOfMemoryError
from qwartet.models.checkpoint import Checkpoint

_FLOAT_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_QUANTISED_LEAVES = ("qweight", "qzeros", "scales", "g_idx")


def weights_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Bytes of the weights once loaded: float tensors at `dtype`, GPTQ tensors as they are."""
    total = 0
    for name, info in checkpoint.tensors.items():
        keeps = info.dtype not in _FLOAT_DTYPES or name.rpartition(".")[2] in _QUANTISED_LEAVES
        total += info.nbytes if keeps else info.nbytes // _FLOAT_DTYPES[info.dtype].itemsize * dtype.itemsize
    return total


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


def check_memory(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
    """OutOfMemoryError with the two figures when the weights cannot fit."""
    needed, available = weights_bytes(checkpoint, dtype), available_bytes(device)
    if needed > available:
        raise OutOfMemoryError(
            f"{checkpoint.directory}: the weights take {needed / 2**30:.2f} GiB and {available / 2**30:.2f} GiB are "
            f"free on {device}; use a smaller or more quantised checkpoint, or force the load (--force), which may swap"
        )
