"""The scale and the zero of a group of weights, and the integer code of each weight.

A group is the g weights of one output that share a scale; group tensors are [g, N], one column for each output.

    symmetric     range [-m, m], m = max |w|     scale = 2m / (2**bits - 1)         zero = 2**(bits - 1)
    asymmetric    range [min(w, 0), max(w, 0)]   scale = width / (2**bits - 1)      zero = round(-low / scale)
    code          clamp(round(w / scale) + zero, 0, 2**bits - 1), halves to even

A search tries the scale times each of SHRINKS: a smaller one clips the largest weights and rounds the others finer; a
symmetric one that is 15/14 as large reaches the largest weight on both sides.

Frantar et al. 2022 as AutoGPTQ 0.7.1 computes it, two quirks included, because published codes depend on them: a
symmetric group without a negative weight has the range [0, m], so that it clips above 7/15 m at 4 bits; and a group
of zeros has the range [-1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

SHRINKS = (1.0, *(1 - step / 50 for step in range(1, 26)), 1.03, 15 / 14)
"""Factors of a scale that a search tries; the first one that is best is taken."""


def fit_group(weight: Tensor, *, bits: int, sym: bool) -> tuple[Tensor, Tensor]:
    """The scale and the zero, both fp32 [N], of a group fp32 [g, N]; zeros are whole numbers."""
    max_code = (1 << bits) - 1
    low = weight.amin(0).clamp(max=0)
    high = weight.amax(0).clamp(min=0)
    if sym:
        high = torch.maximum(-low, high)
        low = torch.where(low < 0, -high, low)
    is_zero = (high - low) / max_code == 0  # also where fp32 has no number small enough for the scale
    low = low.masked_fill(is_zero, -1)
    high = high.masked_fill(is_zero, 1)
    scale = (high - low) / max_code
    zero = torch.full_like(scale, 1 << (bits - 1)) if sym else torch.round(-low / scale)
    return scale, zero


def quantize(weight: Tensor, scale: Tensor, zero: Tensor, *, bits: int) -> Tensor:
    """The codes, whole numbers in fp32, of weights fp32 [..., N] under scale and zero [N]."""
    return (torch.round(weight / scale) + zero).clamp_(0, (1 << bits) - 1)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The weights fp32 [..., N] that codes stand for."""
    return scale * (codes - zero)
