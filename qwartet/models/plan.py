"""Memory before load: what a checkpoint will take in this process, and what there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from qwartet.errors import OutOfMemoryError
from qwartet.kernels.cpu_weights import PANEL
from qwartet.kernels.select import REFERENCE, Kernels
from qwartet.models.checkpoint import Checkpoint
from qwartet.models.names import disk_name
from qwartet.quant_format.config import GptqConfig

_FLOAT_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def weights_bytes(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    *,
    gptq: GptqConfig | None = None,
    kernels: Kernels = REFERENCE,
    packed_head: bool = False,
) -> int:
    """Bytes of the weights once loaded: float tensors at `dtype`, GPTQ weights in the layout of the kernels.

    A bias of zeros is counted and not kept: it takes reading to know it.
    """
    total = 0
    for name, info in checkpoint.tensors.items():
        module, _, leaf = name.rpartition(".")
        is_quantised = f"{module}.qweight" in checkpoint
        packed = _packed_bytes(checkpoint, module, gptq, kernels) if is_quantised and gptq is not None else None
        if packed is not None:
            total += packed if leaf == "qweight" else 0
        elif is_quantised or info.dtype not in _FLOAT_DTYPES:
            total += info.nbytes
        else:
            total += info.nbytes // _FLOAT_DTYPES[info.dtype].itemsize * dtype.itemsize
    if packed_head and kernels.packed_head_bytes is not None:
        rows, columns = checkpoint.info(f"{disk_name('lm_head')}.weight").shape
        total += kernels.packed_head_bytes(rows, columns)
    return total


def _packed_bytes(checkpoint: Checkpoint, module: str, gptq: GptqConfig, kernels: Kernels) -> int | None:
    """Bytes of a GPTQ linear in the layout of the kernels; None where it stays as the file has it."""
    if kernels.packed_bytes is None:
        return None
    words, out_features = checkpoint.info(f"{module}.qweight").shape
    num_groups = checkpoint.info(f"{module}.scales").shape[0]
    in_features = words * (32 // gptq.bits)
    group_size = in_features if gptq.group_size == -1 else min(gptq.group_size, in_features)
    panels = kernels.packed_bytes(in_features, out_features, gptq.bits, group_size, num_groups, not gptq.sym)
    if panels is None:
        return None
    bias = 4 * (-(-out_features // PANEL) * PANEL) if f"{module}.bias" in checkpoint else 0
    return panels + bias + (4 * in_features if gptq.desc_act else 0)


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


def check_memory(checkpoint: Checkpoint, needed: int, device: torch.device) -> None:
    """OutOfMemoryError with the two figures when weights of `needed` bytes cannot fit."""
    available = available_bytes(device)
    if needed > available:
        raise OutOfMemoryError(
            f"{checkpoint.directory}: the weights take {needed / 2**30:.2f} GiB and {available / 2**30:.2f} GiB are "
            f"free on {device}; use a smaller or more quantised checkpoint, or force the load (--force), which may swap"
        )
