"""Reference of LoRA adapters beside a linear, row by row of a batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from qwartet.kernels.low_rank import RowAdapters


def add(y: Tensor, x: Tensor, rows: RowAdapters) -> Tensor:
    """y [..., N] + scale * B A x for x [..., K] -> [..., N] in the dtype of y; each row with its own adapter."""
    out, inputs = y.flatten(0, -2).clone(), x.flatten(0, -2)
    for number in rows.index.unique().tolist():
        one = rows.adapters.low_rank(number) if number >= 0 else None
        if one is not None:
            own = rows.index == number
            low = F.linear(inputs[own], one.a.to(x.dtype))
            out[own] += (F.linear(low, one.b.to(x.dtype)) * one.scale).to(out.dtype)
    return out.view(y.shape)
