"""Padding a GPTQ weight adds exact zeros, whatever its groups are, and cutting gives the weight back bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from qwartet.convert.zero_groups import outputs_of, with_inputs, with_outputs
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.packing import pack_qweight, pack_qzeros
from qwartet.quant_format.weight import QuantizedWeight

CASES = [
    # bits, inputs, group_size of the config, act-order, symmetric, zero format
    (4, 256, 128, False, True, "v1"),
    (4, 200, 128, False, True, "v2"),
    (4, 200, 64, True, True, "v1"),
    (8, 96, 128, False, True, "v1"),  # less than one group
    (8, 300, 32, True, False, "v2"),
    (4, 200, -1, False, False, "v1"),
    (4, 256, 64, False, False, "v1"),
]


def random_weight(bits: int, inputs: int, group_size: int, order: bool, sym: bool, zero_format: str) -> QuantizedWeight:
    torch.manual_seed(inputs + bits)
    outputs, size = 24, inputs if group_size == -1 else min(group_size, inputs)
    groups = -(-inputs // size)
    zeros = torch.randint(1, 2**bits, (groups, outputs), dtype=torch.uint8)
    if sym:
        zeros.fill_(1 << (bits - 1))
    g_idx = torch.arange(inputs, dtype=torch.int32) // size
    return QuantizedWeight(
        bits=bits,
        group_size=size,
        qweight=pack_qweight(torch.randint(0, 2**bits, (inputs, outputs), dtype=torch.uint8), bits),
        scales=torch.rand(groups, outputs).half() + 0.01,
        qzeros=pack_qzeros(zeros, bits, zero_format),  # type: ignore[arg-type]
        g_idx=g_idx[torch.randperm(inputs)] if order else None,
        bias=torch.randn(outputs).half(),
        zero_format=zero_format,  # type: ignore[arg-type]
        sym=sym,
    )


def assert_same(one: QuantizedWeight, other: QuantizedWeight) -> None:
    assert one.group_size == other.group_size and one.tensors.keys() == other.tensors.keys()
    for name, tensor in other.tensors.items():
        assert torch.equal(one.tensors[name], tensor), name


@pytest.mark.parametrize("case", CASES)
def test_padded_inputs_and_outputs_are_zero_and_can_be_cut(case) -> None:
    weight, group_size = random_weight(*case), case[2]
    wide = with_inputs(with_outputs(weight, 64), 512, group_size)
    assert torch.equal(wide.dequantize(), pad(weight.dequantize(), (0, 512 - case[1], 0, 40)))
    assert torch.equal(wide.bias, pad(weight.bias, (0, 40)))
    config = GptqConfig(
        case[0], group_size, case[3], case[4], checkpoint_format={"v1": "gptq", "v2": "gptq_v2"}[case[5]]
    )
    checked = QuantizedWeight.from_tensors(wide.to_tensors(), config, name="x", path="x")  # as a loader checks it
    assert torch.equal(checked.dequantize(), wide.dequantize())
    assert_same(with_outputs(with_inputs(wide, case[1], group_size), 24), weight)
    assert_same(with_inputs(with_outputs(weight, 24), case[1], group_size), weight)


@pytest.mark.parametrize("case", CASES)
def test_weights_that_are_not_zero_are_not_cut(case) -> None:
    weight, group_size = random_weight(*case), case[2]
    for cut in (lambda: with_inputs(weight, case[1] - 32, group_size), lambda: with_outputs(weight, 16)):
        with pytest.raises(ValueError, match="padding to remove is not zero"):
            cut()


def test_a_bias_of_a_cut_output_must_be_zero_too() -> None:
    weight = with_outputs(random_weight(*CASES[0]), 32)
    bias = weight.bias.clone()
    bias[-1] = 1
    with pytest.raises(ValueError, match="not zero"):
        with_outputs(replace(weight, bias=bias), 24)


def test_parts_are_rows_of_the_matrix() -> None:
    weight: QuantizedWeight = random_weight(*CASES[2])
    dense: Tensor = weight.dequantize()
    for start, stop in ((0, 8), (8, 24), (0, 24)):
        part = outputs_of(weight, start, stop)
        assert torch.equal(part.dequantize(), dense[start:stop]) and torch.equal(part.bias, weight.bias[start:stop])
