"""The Hessian of a linear's output error, accumulated from its inputs during calibration."""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.kernels.gptq_ops import REFERENCE_OPS, GptqOps

MIRRORED_ROWS = 1024  # at a time


class HessianAccumulator:
    """H = (2 / n) * sum of x x^T over the n input vectors seen so far: fp32 [K, K].

    H is normalised at every step (the running mean of AutoGPTQ), so its size does not grow with n.
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu", ops: GptqOps = REFERENCE_OPS) -> None:
        self._hessian = torch.zeros(in_features, in_features, device=device)
        self._ops = ops
        self.num_tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Adds a batch of inputs [..., K] of any float dtype, each vector one token."""
        x = inputs.detach().reshape(-1, len(self._hessian)).to(self._hessian)
        total = self.num_tokens + len(x)
        if total > 0:
            self._ops.add_gram_(self._hessian, x, decay=self.num_tokens / total, scale=2 / total)
        self.num_tokens = total

    @property
    def in_features(self) -> int:
        """K."""
        return len(self._hessian)

    @property
    def is_finite(self) -> bool:
        """Whether every input so far was finite, and small enough for its square to be."""
        return bool(self._hessian.diagonal().isfinite().all())

    @property
    def hessian(self) -> Tensor:
        """H, symmetric; more inputs may follow."""
        mirror_(self._hessian)
        return self._hessian


def mirror_(matrix: Tensor, *, to_upper: bool = False) -> None:
    """Copies the upper triangle of a square matrix to the lower one, or the other way."""
    size = len(matrix)
    target = matrix.t() if to_upper else matrix  # its lower triangle is written
    for start in range(0, size, MIRRORED_ROWS):
        stop = min(start + MIRRORED_ROWS, size)
        target[start:stop, :start] = target[:start, start:stop].t()
        block = target[start:stop, start:stop]
        upper = block.triu(1)
        block.triu_().add_(upper.t())
