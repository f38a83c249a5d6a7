"""Weights in the layout of the native CPU kernels: packed panels, the 8-bit copy of a head, dense rows.

The layout is described in csrc/quantized_linear.h. Packing a GPTQ weight moves 256-byte pieces and runs at the
speed of memory; only act-order weights are gathered input by input.
"""

from __future__ import annotations

from ctypes import byref
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.library import native_library
from qwartet.quant_format.weight import QuantizedWeight

LAYOUT_VERSION = 1  # of the packed bytes: a cache of an older one is not read
PANEL = 64
GROUP = 128


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a tensor's data, for a call that is about to happen."""
    return None if tensor is None else tensor.data_ptr()


def allocate(num_bytes: int) -> Tensor:
    """Fresh memory; numpy asks the system for huge pages for large arrays, which weights are streamed from faster."""
    return torch.from_numpy(np.empty(num_bytes, dtype=np.uint8))


@dataclass(frozen=True)
class PackedShape:
    """What the layout of a packed matrix [N, K] follows from; known before the matrix is read."""

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

    @classmethod
    def of_gptq(
        cls, in_features: int, out_features: int, bits: int, group_size: int, num_groups: int, has_zeros: bool
    ) -> PackedShape | None:
        """The shape for a GPTQ weight; None where the kernels do not take it (groups that are no multiple of 32)."""
        unit = GROUP if num_groups == 1 else next((unit for unit in (128, 64, 32) if group_size % unit == 0), None)
        return None if unit is None else cls(in_features, out_features, bits, unit, has_zeros)


def packed_shape(weight: QuantizedWeight) -> PackedShape | None:
    """The shape that a weight will be packed in; None where the native kernels do not take it."""
    return PackedShape.of_gptq(
        weight.in_features, weight.out_features, weight.bits, weight.group_size, weight.num_groups, not weight.sym
    )


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A quantised matrix [N, K] in panels of 64 outputs. Its tensors are its own and are never replaced."""

    shape: PackedShape
    panels: Tensor  # uint8
    bias: Tensor | None = None  # fp32 [N rounded up to 64]
    order: Tensor | None = None  # int32 [K], act-order: where the k-th packed input stands in x

    @property
    def in_features(self) -> int:
        return self.shape.in_features

    @property
    def out_features(self) -> int:
        return self.shape.out_features

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in (self.panels, self.bias, self.order) if tensor is not None]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def structure(self) -> native.Linear:
        """What the native functions take; its pointers live as long as this object."""
        packed = native.PackedWeight(
            panels=pointer(self.panels), bias=pointer(self.bias), order=pointer(self.order),
            num_inputs=self.in_features, num_outputs=self.out_features, bits=self.shape.bits, unit=self.shape.unit,
            has_zeros=self.shape.has_zeros,
        )  # fmt: skip
        return native.Linear(packed=packed, is_packed=1)


def head_shape(rows: int, columns: int) -> PackedShape:
    """The shape of the 8-bit copy of a head [rows, columns]."""
    return PackedShape(columns, rows, 8)


def packing_order(weight: QuantizedWeight) -> Tensor | None:
    """The inputs sorted by group, int32 [K]; None where they stand in that order."""
    if weight.g_idx is None:
        return None
    in_order = torch.arange(weight.in_features, dtype=torch.int32) // weight.group_size
    return None if torch.equal(weight.g_idx, in_order) else torch.argsort(weight.g_idx, stable=True).int()


def padded_bias(bias: Tensor | None, shape: PackedShape) -> Tensor | None:
    """The bias as fp32, with zeros up to a whole panel; None for no bias and for one of zeros."""
    if bias is None or not bool(bias.any()):
        return None
    padded = torch.zeros(shape.bias_size)
    padded[: shape.out_features] = bias.detach().float()
    return padded


def pack(weight: QuantizedWeight) -> PackedWeight:
    """Packs a GPTQ weight that has a `packed_shape`."""
    library, shape = native_library(), packed_shape(weight)
    assert library is not None and shape is not None, "pack needs the native library and a group size that it takes"
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
    assert library.functions.qw_panels_bytes(byref(target)) == shape.panels_bytes, "the native layout is another"
    library.call(
        "qw_pack_gptq", byref(target), pointer(qweight), pointer(scales), pointer(zeros), weight.num_groups,
        weight.group_size, pointer(packed.panels),
    )  # fmt: skip
    return packed


@dataclass(frozen=True, eq=False)
class PackedHead:
    """The 8-bit copy of a head, and how far each of its rows may be off."""

    packed: PackedWeight
    error_norms: Tensor  # fp32 [V]
    row_norms: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.packed.tensors, self.error_norms, self.row_norms]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def pack_head(weight: Tensor) -> PackedHead:
    """Rounds a bf16 head [V, C] to 8 bits in groups of 128."""
    library = native_library()
    assert library is not None and weight.dtype == torch.bfloat16 and weight.is_contiguous(), weight.dtype
    shape = head_shape(*weight.shape)
    packed = PackedWeight(shape, allocate(shape.panels_bytes))
    error_norms, row_norms = torch.empty(shape.out_features), torch.empty(shape.out_features)
    library.call(
        "qw_pack_dense", byref(packed.structure.packed), pointer(weight), pointer(packed.panels), pointer(error_norms),
        pointer(row_norms),
    )  # fmt: skip
    return PackedHead(packed, error_norms, row_norms)
