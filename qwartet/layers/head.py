"""From the last hidden state to the vocabulary: all logits, or only the most probable token."""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.kernels.backend import REFERENCE, Backend, PreparedHead
from qwartet.layers.linear import Linear


class Head(Linear):
    """lm_head [V, C], and the backend's copy for finding the largest logit, if there is one.

    The copy only finds candidates and the exact rows decide, so `argmax` gives the token of the full head. The native
    copy, the 8-bit output head, halves the bytes read (proof in kernels/cpu/csrc/head.h).
    """

    def __init__(self, in_features: int, out_features: int, backend: Backend = REFERENCE) -> None:
        super().__init__(in_features, out_features, backend=backend)
        self.prepared: PreparedHead | None = None

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no adapter changes a head
        """x [R, C] -> logits [R, V], fp32 from the native kernels, else in x's dtype."""
        return self.backend.head_logits(x, self.weight)

    def argmax(self, x: Tensor, num_valid: int) -> list[int]:
        """The id below num_valid with the largest logit for each row of x [R, C]; the first of equals.

        -1 where that logit, or the row, is NaN or infinite.
        """
        if self.prepared is not None:
            return self.backend.head_argmax(x, self.prepared, self.weight, num_valid)
        largest = self(x)[:, :num_valid].float().max(-1)
        return torch.where(largest.values.isfinite(), largest.indices, -1).tolist()
