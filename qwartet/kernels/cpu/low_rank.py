"""LoRA adapters in the layout of the native kernels: A as it is, B in panels of 64 outputs (csrc/low_rank.h)."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.structures import check, pointer
from qwartet.kernels.low_rank import LowRank, PreparedAdapters, RowAdapters

_PANEL = 64  # outputs


class NativeAdapters:
    """The adapters of one linear in bf16, and their structures."""

    def __init__(self, adapters: Sequence[LowRank | None]) -> None:
        self._packed = [None if one is None else _pack(one) for one in adapters]
        self._num_outputs = [0 if one is None else one.b.shape[0] for one in adapters]
        self.structures = (native.LowRank * len(adapters))(*map(_structure, self._packed))

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for one in self._packed if one is not None for tensor in (one.a, one.b)]

    def low_rank(self, number: int) -> LowRank | None:
        packed = self._packed[number]
        if packed is None:
            return None
        return LowRank(packed.a, packed.b.transpose(1, 2).flatten(0, 1)[: self._num_outputs[number]], packed.scale)


def _pack(one: LowRank) -> LowRank:
    """A [r, K] and B [N / 64 rounded up, r, 64] in bf16."""
    b = F.pad(one.b.bfloat16(), (0, 0, 0, -one.b.shape[0] % _PANEL))
    return LowRank(one.a.bfloat16().contiguous(), b.unflatten(0, (-1, _PANEL)).transpose(1, 2).contiguous(), one.scale)


def _structure(packed: LowRank | None) -> native.LowRank:
    if packed is None:
        return native.LowRank()
    for tensor in (packed.a, packed.b):
        check(tensor, *tensor.shape)
    return native.LowRank(a=pointer(packed.a), b=pointer(packed.b), rank=packed.rank, scale=packed.scale)


def row_arguments(rows: RowAdapters | None, num_rows: int) -> tuple[Any, int, int | None]:
    """The last arguments of qw_linear: adapters, their number, and the index."""
    if rows is None:
        return None, 0, None
    assert isinstance(rows.adapters, NativeAdapters), type(rows.adapters)
    check(rows.index, num_rows, dtype=torch.int32)
    return rows.adapters.structures, len(rows.adapters.structures), pointer(rows.index)


def layer_structure(adapters: Sequence[PreparedAdapters | None]) -> native.LayerAdapters:
    """The adapters of a block's five linears; valid as long as they live."""
    addresses = (addressof(one.structures) if isinstance(one, NativeAdapters) else None for one in adapters)
    return native.LayerAdapters(*addresses)
