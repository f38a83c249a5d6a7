"""RMSNorm: y = x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Normalises the last dimension in fp32, rounds to the input's dtype, then multiplies by the weight.

    The rounding before the multiplication is the original's order (modeling_qwen.py) and is kept for
    equal bits in bf16.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        inverse = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return (x32 * inverse).to(x.dtype) * self.weight
