"""Which function serves an operation on a device: one table, and a sentence about what was chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwartet.kernels import int4_reference
from qwartet.quant_format.weight import QuantizedWeight


@dataclass(frozen=True)
class QuantizedKernel:
    """A GPTQ linear implementation: `prepare` repacks a weight once, `linear` multiplies by it."""

    name: str
    prepare: Callable[[QuantizedWeight], Any]
    linear: Callable[[Tensor, Any], Tensor]


REFERENCE = QuantizedKernel("reference", int4_reference.prepare, int4_reference.linear)


def select_quantized_linear(device: torch.device, dtype: torch.dtype) -> QuantizedKernel:
    """Kernel for GPTQ weights whose activations have this dtype on this device."""
    return REFERENCE


def describe_kernels(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Operation -> name of the kernel that serves it; printed at start-up and by `qwartet doctor`."""
    return {
        "quantized linear": select_quantized_linear(device, dtype).name,
        "attention": "reference (torch scaled_dot_product_attention)",
    }
