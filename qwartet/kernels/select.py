"""Which backend serves a model on this device?

    CPU, bf16              the native library (cpu/); without it torch's int4 operation (torch_int4.py)
    everything else        the references (backend.py)
    quantising, CPU        the native library; without it, and on a GPU, torch (gptq_ops.py)

The only place that chooses a backend, and that reads the environment (QWARTET_CPU_ISA) for it.
"""

from __future__ import annotations

from typing import get_args

import torch

from qwartet.errors import SettingError
from qwartet.kernels.backend import REFERENCE, Backend
from qwartet.kernels.cpu.backend import Activations, CpuBackend, CpuLinearBackend
from qwartet.kernels.cpu.gptq_ops import CpuGptqOps
from qwartet.kernels.cpu.library import native_library, unavailable_reason
from qwartet.kernels.gptq_ops import REFERENCE_OPS, GptqOps
from qwartet.kernels.torch_int4 import TorchInt4Backend

ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)
DEFAULT_ACTIVATIONS: Activations = "int8"  # the faster one; its error bounds hold with outliers too (docs/kernels.md)


def select_backend(
    device: torch.device,
    dtype: torch.dtype,
    *,
    activations: str | None = None,
    head_dim: int = 128,
    rotary_dim: int = 128,
) -> Backend:
    """The backend for a model on this device and in this dtype; SettingError for an unknown kind of activations."""
    wanted = DEFAULT_ACTIVATIONS if activations is None else activations
    mode = next((mode for mode in ACTIVATIONS if mode == wanted), None)
    if mode is None:
        raise SettingError(f"activations is {activations!r}; it must be {' or '.join(ACTIVATIONS)}")
    if device.type != "cpu" or dtype != torch.bfloat16:
        return REFERENCE
    if (library := native_library()) is None:
        return TorchInt4Backend(unavailable_reason())
    attends = head_dim % 32 == 0 and head_dim <= 256 and rotary_dim % 32 == 0
    return (CpuBackend if attends else CpuLinearBackend)(library, mode)


def select_gptq_ops(device: torch.device) -> GptqOps:
    """The operations for quantising on this device."""
    library = native_library() if device.type == "cpu" else None
    return REFERENCE_OPS if library is None else CpuGptqOps(library)
