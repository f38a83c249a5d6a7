"""RMSNorm and SwiGLU's product by the book; differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * w over the last dimension (Zhang and Sennrich 2019).

    Computed in fp32 and rounded to x's dtype before the multiplication: the original's order (modeling_qwen.py), kept
    for equal bits in bf16.
    """
    x32 = x.float()
    inverse = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return (x32 * inverse).to(x.dtype) * weight


def silu_mul(up: Tensor, gate: Tensor) -> Tensor:
    """up * silu(gate)."""
    return up * F.silu(gate)
