"""GPTQ linear by the book: dequantise the whole weight, then multiply.

    y = x W^T + b,   W[n, k] = scale[g(k), n] * (q[k, n] - zero[g(k), n])

W is computed in fp32 and rounded to x's dtype. Slow (it touches every weight twice) and obviously right;
every fast Int4 and Int8 kernel is compared with it. Any width, group size and g_idx.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from qwartet.quant_format.weight import QuantizedWeight


def linear(x: Tensor, weight: QuantizedWeight) -> Tensor:
    """x [..., K] -> [..., N] in x's dtype."""
    bias = None if weight.bias is None else weight.bias.to(x.dtype)
    return F.linear(x, weight.dequantize(x.dtype), bias)
