"""RMSNorm: y = x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qwartet.kernels.backend import REFERENCE, Backend


class RMSNorm(nn.Module):
    """Normalises the last dimension; the result has the dtype of the weight."""

    def __init__(self, size: int, eps: float, backend: Backend = REFERENCE) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        return self.backend.rms_norm(x, self.weight, self.eps)
