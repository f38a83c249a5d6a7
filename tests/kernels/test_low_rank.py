"""Adapters beside the native linears against their definition in fp64; a row's bits do not depend on other rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qwartet.kernels.backend import REFERENCE, LinearWeight
from qwartet.kernels.cpu.backend import CpuBackend
from qwartet.kernels.low_rank import LowRank, RowAdapters
from tests.kernels.random_weights import random_bf16, random_low_rank, random_weight

SHAPES = [(128, 64), (104, 8), (1024, 320), (200, 72)]  # inputs, outputs
CPU = torch.device("cpu")


def weight_of(cpu: CpuBackend, kind: str, num_inputs: int, num_outputs: int) -> tuple[LinearWeight, Tensor, Tensor]:
    """A linear for the kernels, and its weight and bias in fp64."""
    if kind == "dense":
        weight, bias = random_bf16(num_outputs, num_inputs) / num_inputs**0.5, random_bf16(num_outputs, seed=1)
        return (weight, bias), weight.double(), bias.double()
    found = random_weight(
        num_inputs, num_outputs, bits=8 if kind == "int8" else 4, act_order=kind == "act order", bias=True,
        group_size=-1 if num_inputs % 128 else 128,
    )  # fmt: skip
    assert found.bias is not None
    return cpu.prepare(found), found.dequantize().double(), found.bias.double()


def adapters_of(num_inputs: int, num_outputs: int) -> list[LowRank | None]:
    ranks = (1, 64, 5)
    return [*(random_low_rank(num_inputs, num_outputs, rank, seed=rank) for rank in ranks), None]


@pytest.mark.parametrize("kind", ["int4", "int8", "act order", "dense"])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), SHAPES)
@torch.inference_mode()
def test_adapters_are_added_as_defined_and_each_row_alone_has_the_same_bits(cpu, kind, num_inputs, num_outputs) -> None:
    weight, exact, bias = weight_of(cpu, kind, num_inputs, num_outputs)
    adapters = adapters_of(num_inputs, num_outputs)
    prepared = cpu.prepare_adapters(adapters, torch.bfloat16, CPU)
    for num_rows in (1, 4, 40, 530):
        x = random_bf16(num_rows, num_inputs, seed=num_rows)
        index = torch.randint(-1, 4, (num_rows,), generator=torch.Generator().manual_seed(3)).int()
        found = cpu.adapted_linear(x, weight, RowAdapters(prepared, index), dtype=torch.float32)
        expected = x.double() @ exact.t() + bias
        for row, number in enumerate(index.tolist()):
            if number >= 0 and (one := adapters[number]) is not None:
                expected[row] += one.scale * (one.b.double() @ (one.a.double() @ x[row].double()))
        assert float((found - expected).norm() / expected.norm()) < 1e-4
        for row in {0, num_rows // 2, num_rows - 1}:
            own = RowAdapters(prepared, index[row : row + 1].contiguous())
            assert torch.equal(cpu.adapted_linear(x[row : row + 1], weight, own, dtype=torch.float32)[0], found[row])
        plain = (
            cpu.dense_linear(x, *weight, dtype=torch.float32)
            if isinstance(weight, tuple)
            else cpu.quantized_linear(x, weight, dtype=torch.float32)
        )
        without = (index < 0) | (index == 3)
        assert torch.equal(found[without], plain[without])


@torch.inference_mode()
def test_the_reference_adds_the_same(cpu) -> None:
    weight, _, _ = weight_of(cpu, "dense", 256, 136)
    adapters = adapters_of(256, 136)
    x, index = random_bf16(7, 256), torch.tensor([0, -1, 2, 1, 3, 1, 0], dtype=torch.int32)
    native = cpu.adapted_linear(x, weight, RowAdapters(cpu.prepare_adapters(adapters, torch.bfloat16, CPU), index))
    double = tuple(tensor.double() for tensor in weight)
    prepared = REFERENCE.prepare_adapters(adapters, torch.float64, CPU)
    expected = REFERENCE.adapted_linear(x.double(), double, RowAdapters(prepared, index))
    torch.testing.assert_close(native.double(), expected, rtol=2**-8, atol=1e-3)
    assert {tuple(tensor.shape) for tensor in prepared.tensors} >= {(64, 256), (136, 64)}


def test_a_weight_on_the_reference_reads_the_native_layout(cpu) -> None:
    weight = random_weight(80, 40, group_size=20)
    adapters = adapters_of(80, 40)
    prepared = cpu.prepare_adapters(adapters, torch.bfloat16, CPU)
    one = prepared.low_rank(1)
    assert one is not None and adapters[1] is not None
    assert torch.equal(one.a, adapters[1].a) and torch.equal(one.b, adapters[1].b) and prepared.low_rank(3) is None
    x, index = random_bf16(3, 80), torch.tensor([1, -1, 3], dtype=torch.int32)
    found = cpu.adapted_linear(x, weight, RowAdapters(prepared, index))
    plain = REFERENCE.quantized_linear(x, weight)
    assert torch.equal(found[1:], plain[1:]) and not torch.equal(found[0], plain[0])


@pytest.mark.parametrize("index", [[4], [-2]])
def test_an_index_of_no_adapter_is_refused(cpu, index) -> None:
    weight, _, _ = weight_of(cpu, "int4", 128, 64)
    prepared = cpu.prepare_adapters(adapters_of(128, 64), torch.bfloat16, CPU)
    with pytest.raises(AssertionError, match="indices are inconsistent"):
        cpu.adapted_linear(random_bf16(1, 128), weight, RowAdapters(prepared, torch.tensor(index, dtype=torch.int32)))
