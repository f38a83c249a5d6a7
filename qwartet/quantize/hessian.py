"""The Hessian of a linear's output error, accumulated from its inputs during calibration."""

from __future__ import annotations

import torch
from torch import Tensor


class HessianAccumulator:
    """H = (2 / n) * sum of x x^T over the n input vectors seen so far: fp32 [K, K].

    H is normalised at every step (the running mean of AutoGPTQ), so its size does not grow with n.
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self.hessian = torch.zeros(in_features, in_features, device=device)
        self.num_tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Adds a batch of inputs [..., K] of any float dtype, each vector one token."""
        x = inputs.detach().reshape(-1, len(self.hessian)).to(self.hessian)
        total = self.num_tokens + len(x)
        if total > 0:
            self.hessian.addmm_(x.t(), x, beta=self.num_tokens / total, alpha=2 / total)
        self.num_tokens = total
