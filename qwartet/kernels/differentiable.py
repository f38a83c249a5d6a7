"""Quantised linears that are differentiable in their input, on the kernels of any backend.

    y = x W^T + b          dL/dx = dL/dy W

The weight is frozen. Between its passes nothing is kept but the packed weight, and no dense weight is ever whole.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from qwartet.kernels.backend import Backend, PreparedWeight


def quantized_linear(x: Tensor, weight: PreparedWeight, backend: Backend) -> Tensor:
    """x [..., K] -> [..., N] as `backend` computes it; the gradient is in x's dtype, summed in fp32."""
    y: Tensor = _QuantizedLinear.apply(x, weight, backend)  # type: ignore[no-untyped-call]
    return y


class _QuantizedLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: PreparedWeight, backend: Backend) -> Tensor:
        ctx.weight, ctx.backend, ctx.dtype = weight, backend, x.dtype
        return backend.quantized_linear(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None, None]:
        return ctx.backend.quantized_linear_gradient(grad_y, ctx.weight, ctx.dtype), None, None
