"""y = x W^T + b, for a dense weight and for a GPTQ weight behind a kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwartet.kernels.select import QuantizedKernel
from qwartet.quant_format.weight import QuantizedWeight


class Linear(nn.Module):
    """Dense linear layer; weight [N, K], bias [N] or None."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class QuantizedLinear(nn.Module):
    """GPTQ linear layer: the weight as the file has it, repacked once by the kernel that multiplies it."""

    def __init__(self, weight: QuantizedWeight, kernel: QuantizedKernel) -> None:
        super().__init__()
        self.in_features = weight.in_features
        self.out_features = weight.out_features
        self.kernel = kernel
        self.prepared = kernel.prepare(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel.linear(x, self.prepared)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, kernel={self.kernel.name}"
