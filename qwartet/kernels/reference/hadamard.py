"""The Walsh-Hadamard transform of the heads of an int8 or int4 cache: it spreads an outlier over all channels.

Every n neighbouring channels, n the largest power of two that divides D, are multiplied by a matrix of +-1 / sqrt(n):

    H(1) = 1      H(2m) = [[H(m), H(m)], [H(m), -H(m)]]      H(n) / sqrt(n)

It is orthogonal, so q . k is unchanged when both are transformed, and symmetric, so it is its own inverse (QuaRot:
Ashkboos et al. 2024).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hadamard(x: Tensor) -> Tensor:
    """Heads x [..., D] -> their transform, fp32 [..., D], in log2(n) rounds of sums and differences, as in C++."""
    size = x.shape[-1] & -x.shape[-1]  # the largest power of two that divides D
    y = x.float() * math.sqrt(1 / size)  # first, so that no intermediate sum exceeds the result
    distance = 1
    while distance < size:
        first, second = y.unflatten(-1, (-1, 2, distance)).unbind(-2)
        y = torch.stack([first + second, first - second], dim=-2).flatten(-3)
        distance *= 2
    return y
