"""Weights in the layout of the native CPU kernels: packed panels, the 8-bit copy of a head, dense rows.

The layout is described in csrc/quantized_linear.h. Packing a GPTQ weight moves 256-byte pieces and runs at the
speed of memory; only act-order weights are gathered input by input.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from qwartet.kernels import native
from qwartet.kernels.native import native_library
from qwartet.quant_format.weight import QuantizedWeight

LAYOUT_VERSION = 1  # of the packed bytes: a cache of an older one is not read
PANEL = 64
GROUP = 128

Allocate = Callable[[int], Tensor]
"""Bytes -> uint8 tensor to pack into: memory of one's own, or a piece of a cache file."""


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a tensor's data, for a call that is about to happen."""
    return None if tensor is None else tensor.data_ptr()


def allocate(num_bytes: int) -> Tensor:
    """Fresh memory; numpy asks the system for huge pages for large arrays, which weights are streamed from faster."""
    return torch.from_numpy(np.empty(num_bytes, dtype=np.uint8))


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A quantised matrix [N, K] in panels of 64 outputs. Its tensors are its own and are never replaced."""

    panels: Tensor  # uint8
    in_features: int
    out_features: int
    bits: int
    unit: int  # inputs that share a scale in memory: 32, 64 or 128
    has_zeros: bool
    bias: Tensor | None = None  # fp32 [N rounded up to 64]
    order: Tensor | None = None  # int32 [K], act-order: where the k-th packed input stands in x

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.panels, self.bias, self.order) if t is not None)

    @cached_property
    def structure(self) -> native.Linear:
        """What the native functions take; its pointers live as long as this object."""
        packed = native.PackedWeight(
            panels=pointer(self.panels), bias=pointer(self.bias), order=pointer(self.order),
            num_inputs=self.in_features, num_outputs=self.out_features, bits=self.bits, unit=self.unit,
            has_zeros=self.has_zeros,
        )  # fmt: skip
        return native.Linear(packed=packed, is_packed=1)


def unit_of(group_size: int, num_groups: int) -> int | None:
    """Inputs of a unit for a group size; None where the kernels cannot (groups that are no multiple of 32)."""
    if num_groups == 1:
        return GROUP
    return next((unit for unit in (128, 64, 32) if group_size % unit == 0), None)


def can_pack(weight: QuantizedWeight) -> bool:
    """Whether the native kernels take this weight."""
    return unit_of(weight.group_size, weight.num_groups) is not None


def panels_bytes(in_features: int, out_features: int, bits: int, unit: int, has_zeros: bool) -> int:
    """Bytes of the packed panels; the same sum as in csrc/quantized_linear.h."""
    units = -(-in_features // GROUP) * (GROUP // unit)
    unit_bytes = unit * PANEL * bits // 8 + 2 * PANEL + (PANEL if has_zeros else 0)
    return -(-out_features // PANEL) * units * unit_bytes


def packed_bytes(
    in_features: int, out_features: int, bits: int, group_size: int, num_groups: int, has_zeros: bool
) -> int | None:
    """Bytes of the panels of a GPTQ weight, known before it is read; None where the kernels do not take it."""
    unit = unit_of(group_size, num_groups)
    return None if unit is None else panels_bytes(in_features, out_features, bits, unit, has_zeros)


def packed_head_bytes(rows: int, columns: int) -> int:
    """Bytes of the 8-bit copy of a head [rows, columns] and of its norms."""
    return panels_bytes(columns, rows, 8, GROUP, False) + 8 * rows


def packing_order(weight: QuantizedWeight) -> Tensor | None:
    """The inputs sorted by group, int32 [K]; None where they stand in that order."""
    if weight.g_idx is None:
        return None
    in_order = torch.arange(weight.in_features, dtype=torch.int32) // weight.group_size
    return None if torch.equal(weight.g_idx, in_order) else torch.argsort(weight.g_idx, stable=True).int()


def padded_bias(bias: Tensor | None, out_features: int) -> Tensor | None:
    """The bias as fp32, with zeros up to a whole panel; None for no bias and for one of zeros."""
    if bias is None or not bool(bias.any()):
        return None
    padded = torch.zeros(-(-out_features // PANEL) * PANEL)
    padded[:out_features] = bias.detach().float()
    return padded


def pack(weight: QuantizedWeight, allocate: Allocate = allocate) -> PackedWeight:
    """Packs a GPTQ weight for which `can_pack` holds."""
    library = native_library()
    unit = unit_of(weight.group_size, weight.num_groups)
    assert library is not None and unit is not None, "pack needs the native library and a group size that it takes"
    has_zeros = not weight.sym
    size = panels_bytes(weight.in_features, weight.out_features, weight.bits, unit, has_zeros)
    packed = PackedWeight(
        panels=allocate(size),
        in_features=weight.in_features,
        out_features=weight.out_features,
        bits=weight.bits,
        unit=unit,
        has_zeros=has_zeros,
        bias=padded_bias(weight.bias, weight.out_features),
        order=packing_order(weight),
    )
    qweight, scales = weight.qweight.contiguous(), weight.scales.contiguous()
    zeros = weight.zeros().contiguous() if has_zeros else None
    assert (qweight.dtype, scales.dtype) == (torch.int32, torch.float16), (qweight.dtype, scales.dtype)
    target = packed.structure.packed
    assert library.functions.qw_panels_bytes(byref(target)) == size, "panels_bytes differs from the native layout"
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
    def nbytes(self) -> int:
        return self.packed.nbytes + self.error_norms.nbytes + self.row_norms.nbytes


def pack_head(weight: Tensor, allocate: Allocate = allocate) -> PackedHead:
    """Rounds a bf16 head [V, C] to 8 bits in groups of 128."""
    library = native_library()
    assert library is not None and weight.dtype == torch.bfloat16 and weight.is_contiguous(), weight.dtype
    rows, columns = weight.shape
    packed = PackedWeight(allocate(panels_bytes(columns, rows, 8, GROUP, False)), columns, rows, 8, GROUP, False)
    error_norms, row_norms = torch.empty(rows), torch.empty(rows)
    library.call(
        "qw_pack_dense", byref(packed.structure.packed), pointer(weight), pointer(packed.panels), pointer(error_norms),
        pointer(row_norms),
    )  # fmt: skip
    return PackedHead(packed, error_norms, row_norms)
