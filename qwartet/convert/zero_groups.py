"""Makes linears wider by weights that are exactly zero, or takes such weights away again.

A GPTQ weight is scale * (code - zero), so a code that equals its zero is 0. A new input joins the last group where that
has room, and new groups get the middle of the codes as their zero, and scale 1:

    4 bits, format v1, one new group    qweight 0x88888888   qzeros 0x77777777   scales 1
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from qwartet.quant_format.packing import pack_qweight, pack_qzeros, unpack_qweight
from qwartet.quant_format.weight import QuantizedWeight


def outputs_of(weight: QuantizedWeight, start: int, stop: int) -> QuantizedWeight:
    """Some rows of the matrix [N, K]; both ends are multiples of the codes in a word, 32 / bits."""
    lanes = 32 // weight.bits
    assert start % lanes == stop % lanes == 0, (start, stop, lanes)
    return replace(
        weight,
        qweight=weight.qweight[:, start:stop].contiguous(),
        scales=weight.scales[:, start:stop].contiguous(),
        qzeros=weight.qzeros[:, start // lanes : stop // lanes].contiguous(),
        bias=None if weight.bias is None else weight.bias[start:stop],
    )


def with_outputs(weight: QuantizedWeight, num_outputs: int) -> QuantizedWeight:
    """As many rows: zero rows added at the end, or rows taken away there; ValueError where those are not zero."""
    old = weight.out_features
    if num_outputs <= old:
        _check_zero(weight.dequantize_rows(num_outputs, old) if num_outputs < old else None)
        _check_zero(None if weight.bias is None else weight.bias[num_outputs:])
        return outputs_of(weight, 0, num_outputs)
    more, groups = num_outputs - old, weight.num_groups
    middle = 1 << (weight.bits - 1)
    codes = torch.full((weight.in_features, more), middle, dtype=torch.uint8)
    zeros = torch.full((groups, more), middle, dtype=torch.uint8)
    return replace(
        weight,
        qweight=torch.cat([weight.qweight, pack_qweight(codes, weight.bits)], dim=1),
        scales=torch.cat([weight.scales, weight.scales.new_ones(groups, more)], dim=1),
        qzeros=torch.cat([weight.qzeros, pack_qzeros(zeros, weight.bits, weight.zero_format)], dim=1),
        bias=None if weight.bias is None else pad(weight.bias, (0, more)),
    )


def with_inputs(weight: QuantizedWeight, num_inputs: int, group_size: int) -> QuantizedWeight:
    """As many columns: zero columns added at the end, or taken away there; ValueError where those are not zero.

    `group_size` as in the config: -1 is one group of all inputs.
    """
    size = num_inputs if group_size == -1 else min(group_size, num_inputs)
    groups = -(-num_inputs // size)
    if num_inputs <= weight.in_features:
        return _with_fewer_inputs(weight, num_inputs, size, groups)
    more = groups - weight.num_groups
    added = torch.arange(weight.in_features, num_inputs, dtype=torch.int32) // size
    middle = torch.full((more, weight.out_features), 1 << (weight.bits - 1), dtype=torch.uint8)
    zeros = torch.cat([weight.zeros(), middle])
    words = pack_qzeros(middle, weight.bits, weight.zero_format)
    return replace(
        weight,
        group_size=size,
        qweight=torch.cat([weight.qweight, pack_qweight(zeros[added.long()], weight.bits)]),
        scales=torch.cat([weight.scales, weight.scales.new_ones(more, weight.out_features)]),
        qzeros=torch.cat([weight.qzeros, words]),
        g_idx=None if weight.g_idx is None else torch.cat([weight.g_idx, added]),
    )


def _with_fewer_inputs(weight: QuantizedWeight, num_inputs: int, size: int, groups: int) -> QuantizedWeight:
    group = weight.group_of_input()
    words = num_inputs * weight.bits // 32
    rest = unpack_qweight(weight.qweight[words:], weight.bits)
    is_zero = torch.equal(rest, weight.zeros()[group[num_inputs:].long()])
    if not is_zero or int(group[:num_inputs].max()) >= groups:
        raise ValueError("the padding to remove is not zero")
    return replace(
        weight,
        group_size=size,
        qweight=weight.qweight[:words].contiguous(),
        scales=weight.scales[:groups].contiguous(),
        qzeros=weight.qzeros[:groups].contiguous(),
        g_idx=None if weight.g_idx is None else weight.g_idx[:num_inputs].contiguous(),
    )


def _check_zero(values: Tensor | None) -> None:
    if values is not None and bool(values.count_nonzero()):
        raise ValueError("the padding to remove is not zero")
