"""Low-rank adapters beside frozen linears, float (Hu et al. 2021) or quantised (Dettmers et al. 2023).

y = base(x) + (alpha / rank) * B A dropout(x)          A [r, K] random, B [N, r] zero: no effect at first
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwartet.errors import SettingError
from qwartet.layers.linear import Linear, QuantizedLinear


class LoraLinear(nn.Module):
    """A linear and its adapter. A and B are fp32 and are used in the dtype of x; only they are trained."""

    def __init__(self, base: Linear | QuantizedLinear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        for parameter in base.parameters():
            parameter.requires_grad = False
        self.base, self.scale, self.dropout = base, alpha / rank, dropout
        device = next((parameter.device for parameter in base.parameters()), None)
        self.a = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] -> [..., N] in the dtype of the base's result."""
        y: Tensor = self.base(x)
        low = F.linear(F.dropout(x, self.dropout, self.training), self.a.to(x.dtype))
        return y + (F.linear(low, self.b.to(x.dtype)) * self.scale).to(y.dtype)


def add_lora(
    network: nn.Module, targets: Sequence[str], rank: int, alpha: float, dropout: float = 0.0
) -> dict[str, LoraLinear]:
    """Adds an adapter to every linear whose name ends with one of `targets` ("attention.qkv"); returns them by name.

    All other parameters are frozen. SettingError for a target that matches no linear.
    """
    found: dict[str, LoraLinear] = {}
    for parameter in network.parameters():
        parameter.requires_grad = False
    linears = {name: one for name, one in network.named_modules() if isinstance(one, Linear | QuantizedLinear)}
    for target in targets:
        names = [name for name in linears if name.endswith(target)]
        if not names:
            kinds = sorted({name.split(".", 2)[-1] for name in linears})
            raise SettingError(f"target {target!r} matches no linear of the network; use some of {', '.join(kinds)}")
        for name in names:
            parent, _, leaf = name.rpartition(".")
            found[name] = LoraLinear(linears[name], rank, alpha, dropout)
            setattr(network.get_submodule(parent), leaf, found[name])
    return found
