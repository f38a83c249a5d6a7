"""Token ids to the beginning of the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qwartet.kernels.select import REFERENCE, Kernels


class Embedding(nn.Module):
    """A row of weight [V, C] for each id, in fp32 whatever the weight's dtype."""

    def __init__(self, num_embeddings: int, size: int, kernels: Kernels = REFERENCE) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embeddings, size))
        self.kernels = kernels

    def forward(self, ids: Tensor) -> Tensor:
        return self.kernels.embed(ids, self.weight)
