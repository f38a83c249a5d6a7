"""From the last hidden state to the vocabulary: all logits, or only the most probable token."""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.kernels.cpu.weights import PackedHead
from qwartet.kernels.select import REFERENCE, Kernels
from qwartet.layers.linear import Linear


class Head(Linear):
    """lm_head [V, C], and an 8-bit copy of it where one was made (`pack`).

    The copy finds the candidates for the most probable token and the exact rows decide, so `argmax` gives the token of
    the full head (csrc/head.h has the proof) and reads half of the bytes.
    """

    def __init__(self, in_features: int, out_features: int, kernels: Kernels = REFERENCE) -> None:
        super().__init__(in_features, out_features, kernels=kernels)
        self.packed: PackedHead | None = None

    def pack(self) -> None:
        """Makes the 8-bit copy; does nothing where the kernels have no use for one."""
        if self.kernels.pack_head is not None:
            self.packed = self.kernels.pack_head(self.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x [R, C] -> logits [R, V], fp32 from the native kernels, else in x's dtype."""
        return self.kernels.head_logits(x, self.weight)

    def argmax(self, x: Tensor, num_valid: int) -> list[int]:
        """The id below num_valid with the largest logit for each row of x [R, C]; the first of equals.

        -1 where that logit, or the row, is NaN or infinite.
        """
        if self.packed is not None and self.kernels.head_argmax is not None:
            return self.kernels.head_argmax(x, self.packed, self.weight, num_valid)[0]
        largest = self(x)[:, :num_valid].float().max(-1)
        return torch.where(largest.values.isfinite(), largest.indices, -1).tolist()
