"""Weights in the layout of the native CPU kernels: packed panels, and the 8-bit output head.

The layout is described in csrc/quantized_linear.h. Packing a GPTQ weight moves 256-byte pieces and runs at
memory bandwidth; only act-order weights are gathered input by input.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import byref
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from qwartet.kernels.backend import TensorSpec
from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.structures import check, pointer
from qwartet.quant_format.weight import QuantizedShape, QuantizedWeight

LAYOUT = "layout 1"  # of the packed bytes: files of other layouts are not read
PANEL = 64
GROUP = 128


def allocate(num_bytes: int) -> Tensor:
    """Fresh memory; for large arrays numpy requests huge pages, from which weights stream faster."""
    return torch.from_numpy(np.empty(num_bytes, dtype=np.uint8))


def unit_of(group_size: int) -> int | None:
    """Inputs that share a scale in memory, for a group size (-1: all inputs); None if the kernels do not support it."""
    return GROUP if group_size == -1 else next((unit for unit in (128, 64, 32) if group_size % unit == 0), None)


@dataclass(frozen=True)
class PackedShape:
    """What determines the layout of a packed matrix [N, K]; known before the matrix is read."""

    in_features: int
    out_features: int
    bits: int
    unit: int = GROUP  # inputs that share a scale in memory: 32, 64 or 128
    has_zeros: bool = False

    @property
    def panels_bytes(self) -> int:
        """The same sum as in csrc/quantized_linear.h."""
        units = -(-self.in_features // GROUP) * (GROUP // self.unit)
        unit_bytes = self.unit * PANEL * self.bits // 8 + 2 * PANEL + (PANEL if self.has_zeros else 0)
        return self.num_panels * units * unit_bytes

    @property
    def num_panels(self) -> int:
        return -(-self.out_features // PANEL)

    @property
    def bias_size(self) -> int:
        """Values of a bias: one for each output of all panels."""
        return self.num_panels * PANEL


def packed_shape(shape: QuantizedShape) -> PackedShape | None:
    """The packed shape of a weight; None if the kernels do not support it (group size not a multiple of 32)."""
    unit = unit_of(-1 if shape.num_groups == 1 else shape.group_size)
    return None if unit is None else PackedShape(shape.in_features, shape.out_features, shape.bits, unit, not shape.sym)


def weight_specs(shape: QuantizedShape) -> tuple[TensorSpec, ...] | None:
    """The tensors of a packed weight, at most: a zero bias and an identity order are not kept."""
    packed = packed_shape(shape)
    if packed is None:
        return None
    specs = [TensorSpec("panels", torch.uint8, (packed.panels_bytes,))]
    if shape.has_bias:
        specs.append(TensorSpec("bias", torch.float32, (packed.bias_size,)))
    if shape.has_order:
        specs.append(TensorSpec("order", torch.int32, (packed.in_features,)))
    return tuple(specs)


def head_shape(rows: int, columns: int) -> PackedShape:
    """The shape of the 8-bit output head of a head [rows, columns]."""
    return PackedShape(columns, rows, 8)


def head_specs(rows: int, columns: int) -> tuple[TensorSpec, ...]:
    """The tensors of that 8-bit head."""
    panels = TensorSpec("panels", torch.uint8, (head_shape(rows, columns).panels_bytes,))
    return panels, *(TensorSpec(leaf, torch.float32, (rows,)) for leaf in ("error_norms", "row_norms"))


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A quantised matrix [N, K] in panels of 64 outputs. It owns its tensors, which are never replaced."""

    shape: PackedShape
    panels: Tensor  # uint8
    bias: Tensor | None = None  # fp32 [N rounded up to 64]
    order: Tensor | None = None  # int32 [K], act-order: the index in x of the k-th packed input

    @property
    def in_features(self) -> int:
        return self.shape.in_features

    @property
    def out_features(self) -> int:
        return self.shape.out_features

    @classmethod
    def of_tensors(cls, shape: QuantizedShape, tensors: Mapping[str, Tensor]) -> PackedWeight:
        """From the tensors of `weight_specs`; ValueError for an order that would lead a kernel out of bounds."""
        packed, bias, order = packed_shape(shape), tensors.get("bias"), tensors.get("order")
        assert packed is not None, shape
        if bias is not None and not bool(bias.any()):
            bias = None
        if order is not None:
            in_order = torch.arange(packed.in_features, dtype=torch.int32)
            if not torch.equal(order.sort().values, in_order):
                raise ValueError("order is not a permutation of the inputs")
            order = None if torch.equal(order, in_order) else order
        return cls(packed, tensors["panels"], bias, order)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, by leaf."""
        found = {"panels": self.panels, "bias": self.bias, "order": self.order}
        return {leaf: tensor for leaf, tensor in found.items() if tensor is not None}

    def complete_tensors(self) -> dict[str, Tensor]:
        """The same, with the zero bias and the identity order that are not kept."""
        bias = torch.zeros(self.shape.bias_size) if self.bias is None else self.bias
        order = torch.arange(self.in_features, dtype=torch.int32) if self.order is None else self.order
        return {"panels": self.panels, "bias": bias, "order": order}

    @cached_property
    def structure(self) -> native.Linear:
        """The argument of native functions; its pointers live as long as this object."""
        packed = native.PackedWeight(
            panels=pointer(self.panels), bias=pointer(self.bias), order=pointer(self.order),
            num_inputs=self.in_features, num_outputs=self.out_features, bits=self.shape.bits, unit=self.shape.unit,
            has_zeros=self.shape.has_zeros,
        )  # fmt: skip
        return native.Linear(packed=packed, is_packed=1)


def packing_order(weight: QuantizedWeight) -> Tensor | None:
    """The inputs sorted by group, int32 [K]; None if they already are."""
    if weight.g_idx is None:
        return None
    in_order = torch.arange(weight.in_features, dtype=torch.int32) // weight.group_size
    return None if torch.equal(weight.g_idx, in_order) else torch.argsort(weight.g_idx, stable=True).int()


def padded_bias(bias: Tensor | None, shape: PackedShape) -> Tensor | None:
    """The bias as fp32, zero-padded to whole panels; None for no bias and for a zero bias."""
    if bias is None or not bool(bias.any()):
        return None
    padded = torch.zeros(shape.bias_size)
    padded[: shape.out_features] = bias.detach().float()
    return padded


def pack(library: native.NativeLibrary, weight: QuantizedWeight) -> PackedWeight:
    """Packs a GPTQ weight that has a `packed_shape`."""
    shape = packed_shape(weight.shape)
    assert shape is not None, f"no unit for groups of {weight.group_size}"
    packed = PackedWeight(
        shape=shape,
        panels=allocate(shape.panels_bytes),
        bias=padded_bias(weight.bias, shape),
        order=packing_order(weight),
    )
    qweight, scales = weight.qweight.contiguous(), weight.scales.contiguous()
    zeros = weight.zeros().contiguous() if shape.has_zeros else None
    assert (qweight.dtype, scales.dtype) == (torch.int32, torch.float16), (qweight.dtype, scales.dtype)
    target = packed.structure.packed
    assert library.functions.qw_panels_bytes(byref(target)) == shape.panels_bytes, "the native layout differs"
    library.call(
        "qw_pack_gptq", byref(target), pointer(qweight), pointer(scales), pointer(zeros), weight.num_groups,
        weight.group_size, pointer(packed.panels),
    )  # fmt: skip
    return packed


@dataclass(frozen=True, eq=False)
class PackedHead:
    """The 8-bit output head, and an error bound for each of its rows."""

    packed: PackedWeight
    error_norms: Tensor  # fp32 [V]
    row_norms: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What it holds, by leaf."""
        return {"panels": self.packed.panels, "error_norms": self.error_norms, "row_norms": self.row_norms}


def pack_head(library: native.NativeLibrary, weight: Tensor) -> PackedHead:
    """Rounds a bf16 head [V, C] to 8 bits in groups of 128."""
    check(weight, *weight.shape)
    shape = head_shape(*weight.shape)
    packed = PackedWeight(shape, allocate(shape.panels_bytes))
    error_norms, row_norms = torch.empty(shape.out_features), torch.empty(shape.out_features)
    library.call(
        "qw_pack_dense", byref(packed.structure.packed), pointer(weight), pointer(packed.panels), pointer(error_norms),
        pointer(row_norms),
    )  # fmt: skip
    return PackedHead(packed, error_norms, row_norms)
