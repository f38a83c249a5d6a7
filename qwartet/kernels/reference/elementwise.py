"""Reference embedding, RMSNorm and SwiGLU product; differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def embed(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of table [V, C] for ids [T] -> [T, C] fp32."""
    return F.embedding(ids, table).float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * w over the last dimension (Zhang and Sennrich 2019).

    Computed in fp32 and rounded once, to the weight's dtype; the original in bf16 also rounds before it multiplies.
    """
    x32 = x.float()
    inverse = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return (x32 * inverse * weight.float()).to(weight.dtype)


def silu_mul(up: Tensor, gate: Tensor) -> Tensor:
    """up * silu(gate)."""
    return up * F.silu(gate)
