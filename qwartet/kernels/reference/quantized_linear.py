"""Reference GPTQ linear: dequantise the whole weight, then multiply.

    y = x W^T + b,   W[n, k] = scale[g(k), n] * (q[k, n] - zero[g(k), n])         dL/dx = dL/dy W

W is computed in fp32 and rounded to x's dtype. Slow (it touches every weight twice) and obviously right; every fast
Int4 and Int8 kernel is compared with it. Any width, group size and g_idx. The gradient takes W tile by tile, so that
training keeps no dense weight between its two passes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwartet.quant_format.weight import TILE_VALUES, QuantizedWeight


def linear(x: Tensor, weight: QuantizedWeight) -> Tensor:
    """x [..., K] -> [..., N] in x's dtype; differentiable in x."""
    y: Tensor = _Multiply.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


def linear_backward_input(grad_y: Tensor, weight: QuantizedWeight) -> Tensor:
    """The gradient of x [..., K] from that of y [..., N]: summed in fp32 over tiles of rows of W, in grad_y's dtype."""
    grad_x = torch.zeros(*grad_y.shape[:-1], weight.in_features, device=grad_y.device)
    # torch multiplies such bf16 matrices far slower than fp32 on a CPU without instructions for them.
    dtype = torch.float32 if grad_y.device.type == "cpu" else grad_y.dtype
    columns = grad_y.to(dtype)
    num_rows = max(TILE_VALUES // weight.in_features, 1)
    for start in range(0, weight.out_features, num_rows):
        stop = min(start + num_rows, weight.out_features)
        grad_x += columns[..., start:stop] @ weight.dequantize_rows(start, stop).to(dtype)
    return grad_x.to(grad_y.dtype)


class _Multiply(torch.autograd.Function):
    """Keeps the packed weight for the backward pass, and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: QuantizedWeight) -> Tensor:
        ctx.weight = weight
        bias = None if weight.bias is None else weight.bias.to(x.dtype)
        return F.linear(x, weight.dequantize(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
        return linear_backward_input(grad_y, ctx.weight), None
