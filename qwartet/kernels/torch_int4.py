"""GPTQ linear by torch's own int4 operation: the fallback on a CPU without the native library.

    y = x W^T,   W[n, k] = scale[g, n] * (q[n, k] - 8) + offset[g, n]

torch keeps scale and offset in bf16, so weights have a relative error of up to 2^-9, and reads codes at about half of
the memory bandwidth. 4 bits, groups of 32, 64, 128 or 256, K a multiple of 32 and N of 16; else the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qwartet.kernels.backend import Backend, PreparedWeight
from qwartet.quant_format.weight import TILE_VALUES, QuantizedWeight

GROUP_SIZES = (32, 64, 128, 256)


@dataclass(frozen=True, eq=False)
class TorchWeight:
    """A weight in torch's layout; `order` [K] sorts act-order inputs by group."""

    in_features: int
    out_features: int
    packed: Tensor
    scales_and_zeros: Tensor  # bf16 [G, N, 2]
    group_size: int
    order: Tensor | None
    bias: Tensor | None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, by leaf."""
        found = {
            "packed": self.packed,
            "scales_and_zeros": self.scales_and_zeros,
            "order": self.order,
            "bias": self.bias,
        }
        return {leaf: tensor for leaf, tensor in found.items() if tensor is not None}


def can_prepare(weight: QuantizedWeight) -> bool:
    """Whether torch's operation supports this weight."""
    group_size = weight.in_features if weight.num_groups == 1 else weight.group_size
    fits = weight.in_features % group_size == 0 and weight.in_features % 32 == 0 and weight.out_features % 16 == 0
    return weight.bits == 4 and group_size in GROUP_SIZES and fits


def pack(weight: QuantizedWeight) -> TorchWeight:
    """Repacks a weight that `can_prepare`."""
    codes = weight.codes().t()  # [N, K]
    order = None
    if weight.g_idx is not None:
        order = torch.argsort(weight.g_idx, stable=True)
        codes = codes[:, order]
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int().contiguous(), 1)
    scales = weight.scales.float()  # [G, N]
    offset = (8 - weight.zeros().float()) * scales
    scales_and_zeros = torch.stack([scales, offset], dim=-1).bfloat16().contiguous()
    bias = None if weight.bias is None else weight.bias.bfloat16()
    group_size = weight.in_features // weight.num_groups
    return TorchWeight(weight.in_features, weight.out_features, packed, scales_and_zeros, group_size, order, bias)


class TorchInt4Backend(Backend):
    """torch's operation for the weights that it supports, the references for everything else."""

    def __init__(self, reason: str | None) -> None:
        """`reason`: why there is no faster backend."""
        name = "torch int4 (about half of the memory bandwidth; scales rounded to bf16)"
        self.names = {**Backend.names, "quantized linear": f"{name}; {reason}"}

    def prepare(self, weight: QuantizedWeight) -> PreparedWeight:
        return pack(weight) if can_prepare(weight) else weight

    def quantized_linear(self, x: Tensor, weight: PreparedWeight) -> Tensor:
        """x bf16 [..., K] -> [..., N]."""
        if not isinstance(weight, TorchWeight):
            return super().quantized_linear(x, weight)
        rows = x.flatten(0, -2)
        if weight.order is not None:
            rows = rows[:, weight.order]
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows.contiguous(), weight.packed, weight.group_size, weight.scales_and_zeros
        )
        y = y if weight.bias is None else y + weight.bias
        return y.view(*x.shape[:-1], weight.out_features)

    def quantized_linear_gradient(self, grad_y: Tensor, weight: PreparedWeight, dtype: torch.dtype) -> Tensor:
        """As torch's operation has W, rounded to bf16: its columns are the products with rows of the identity."""
        if not isinstance(weight, TorchWeight):
            return super().quantized_linear_gradient(grad_y, weight, dtype)
        rows = grad_y.flatten(0, -2).float()
        identity = torch.eye(weight.in_features, dtype=torch.bfloat16)
        parts = [
            rows
            @ torch.ops.aten._weight_int4pack_mm_for_cpu(
                columns, weight.packed, weight.group_size, weight.scales_and_zeros
            )
            .t()
            .float()
            for columns in identity.split(max(TILE_VALUES // weight.out_features, 1))
        ]
        grad_x = torch.cat(parts, dim=-1)
        if weight.order is not None:
            grad_x = torch.empty_like(grad_x).index_copy_(1, weight.order, grad_x)
        return grad_x.to(dtype).view(*grad_y.shape[:-1], weight.in_features)
