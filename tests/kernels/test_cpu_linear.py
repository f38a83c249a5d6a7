"""The native linears against the dequantised weight in fp64, on every instruction set.

And: no other row of a batch, no thread and no tile of the kernel changes a bit of a row.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qwartet.kernels.cpu.backend import Activations, CpuBackend
from qwartet.kernels.cpu.weights import packed_shape
from qwartet.quant_format.weight import QuantizedWeight
from tests.kernels.random_weights import random_bf16, random_weight

# Of the output's norm. 16-bit activations: half a step of 1/65,000 of the group's largest, which is 3 or 4 times its
# root mean square: 3e-5. 8 bits: half a step of 1/254, so 4e-3 to 7e-3.
TOLERANCE = {"exact": 1e-4, "int8": 1e-2}
NUM_ROWS = [1, 2, 3, 5, 8, 16, 17, 64, 513]
SHAPES = [  # inputs, outputs, group size
    (128, 64, 128),
    (256, 128, 128),
    (64, 24, 64),
    (96, 40, 32),
    (200, 72, -1),
    (1024, 320, 128),
    (384, 96, 64),
    (512, 64, 256),
    (320, 136, 96),
    (104, 8, 32),
    (640, 72, 128),
]


def rounding(cpu: CpuBackend, activations: Activations) -> CpuBackend:
    return CpuBackend(cpu.library, activations)


def by_definition(x: Tensor, weight: QuantizedWeight) -> Tensor:
    bias = 0 if weight.bias is None else weight.bias.double()
    return x.double() @ weight.dequantize().double().t() + bias


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("activations", ["exact", "int8"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("num_inputs", "num_outputs", "group_size"), SHAPES)
def test_a_packed_linear_is_the_product_with_the_dequantised_weight(
    cpu, activations, bits, num_inputs, num_outputs, group_size
) -> None:
    for act_order, sym in ((False, True), (True, True), (False, False), (True, False)):
        weight = random_weight(
            num_inputs, num_outputs, bits=bits, group_size=group_size, act_order=act_order, sym=sym, bias=True
        )
        packed = cpu.prepare(weight)
        for num_rows in NUM_ROWS:
            x = random_bf16(num_rows, num_inputs, seed=num_rows)
            found = rounding(cpu, activations).quantized_linear(x, packed, dtype=torch.float32)
            assert relative_error(found, by_definition(x, weight)) < TOLERANCE[activations], (act_order, sym, num_rows)


@pytest.mark.parametrize("activations", ["exact", "int8"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_has_the_same_bits_in_every_batch_and_with_every_number_of_threads(
    cpu, threads, activations, bits
) -> None:
    packed = cpu.prepare(random_weight(384, 200, bits=bits, bias=True))
    x = random_bf16(600, 384)
    x[::3] *= torch.tensor([1.0, 40.0]).repeat(192)  # some rows have values that stand out
    together = rounding(cpu, activations).quantized_linear(x, packed, dtype=torch.float32)
    for num_threads in (1, 3):
        threads(num_threads)
        assert torch.equal(rounding(cpu, activations).quantized_linear(x, packed, dtype=torch.float32), together)
    for size in (1, 2, 3, 4, 5, 6, 7, 11, 13, 97):
        rows = slice(299, 299 + size)
        alone = rounding(cpu, activations).quantized_linear(x[rows], packed, dtype=torch.float32)
        assert torch.equal(alone, together[rows])


def test_bf16_results_are_the_rounded_fp32_results(cpu) -> None:
    packed = cpu.prepare(random_weight(256, 72, bias=True))
    x = random_bf16(9, 256)
    assert torch.equal(cpu.quantized_linear(x, packed), cpu.quantized_linear(x, packed, dtype=torch.float32).bfloat16())


@pytest.mark.parametrize("factor", [1e37, 1e30, 1e-30, 1e-38, 0.0])
def test_huge_tiny_and_zero_activations_keep_their_meaning(cpu, factor) -> None:
    weight = random_weight(256, 64)
    x = (random_bf16(3, 256).clamp(-1, 1).double() * factor).bfloat16()
    found = cpu.quantized_linear(x, cpu.prepare(weight), dtype=torch.float32).double()
    expected = by_definition(x, weight)
    # below the normal numbers a group counts as zero
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=max(1e-4 * factor, 1e-36))


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activations", ["exact", "int8"])
def test_what_is_not_finite_reaches_every_output_of_its_row_and_no_other_row(cpu, activations, odd) -> None:
    x = random_bf16(8, 256)
    x[5, 200] = odd
    for found in (
        rounding(cpu, activations).quantized_linear(x, cpu.prepare(random_weight(256, 64))),
        cpu.dense_linear(x, random_bf16(64, 256)),
    ):
        assert not found[5].isfinite().any()
        assert found[[0, 1, 2, 3, 4, 6, 7]].isfinite().all()


def test_values_that_stand_out_cost_int8_activations_no_accuracy(cpu) -> None:
    weight = random_weight(512, 128)
    x = random_bf16(16, 512)
    x[:, ::100] *= 100
    small = x.clone()
    small[:, ::100] = 0
    packed = cpu.prepare(weight)
    seen = rounding(cpu, "int8").quantized_linear(x, packed, dtype=torch.float32) - cpu.quantized_linear(
        x - small, packed, dtype=torch.float32
    )
    assert relative_error(seen, by_definition(small, weight)) < 1e-2  # of the small values alone


@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(64, 128), (100, 96), (33, 250), (7, 32), (1000, 512), (1, 1)])
def test_a_dense_linear_is_the_product(cpu, num_outputs, num_inputs) -> None:
    weight, bias = random_bf16(num_outputs, num_inputs, seed=1), random_bf16(num_outputs, seed=2)
    everything = random_bf16(70, num_inputs, seed=3)
    together = cpu.dense_linear(everything, weight, bias, dtype=torch.float32)
    expected = everything.double() @ weight.double().t() + bias.double()
    torch.testing.assert_close(together.double(), expected, rtol=1e-5, atol=1e-5 * num_inputs**0.5)
    for num_rows in NUM_ROWS[:-2]:
        rows = everything[50 : 50 + num_rows]
        assert torch.equal(cpu.dense_linear(rows, weight, bias, dtype=torch.float32), together[50 : 50 + num_rows])


def test_leading_dimensions_pass_through(cpu) -> None:
    x = random_bf16(2, 3, 256)
    packed = cpu.prepare(random_weight(256, 72))
    assert cpu.quantized_linear(x, packed).shape == (2, 3, 72)
    assert cpu.quantized_linear(x[:0], packed).shape == (0, 3, 72)
    assert torch.equal(cpu.quantized_linear(x, packed)[1, 2], cpu.quantized_linear(x[1, 2], packed))


def test_packing_counts_its_bytes(cpu) -> None:
    packed = cpu.prepare(random_weight(256, 128))
    codes, scales = 256 * 128 // 2, 2 * 128 * 2  # a scale for each group and output
    assert {leaf: tensor.nbytes for leaf, tensor in packed.tensors.items()} == {"panels": codes + scales}
    assert cpu.prepare(random_weight(200, 72, group_size=-1)).panels.nbytes == 2 * 2 * (128 * 64 // 2 + 128)  # padded


def test_groups_that_are_no_multiple_of_32_are_not_packed() -> None:
    assert packed_shape(random_weight(80, 8, group_size=16).shape) is None
    assert packed_shape(random_weight(80, 8, group_size=40).shape) is None
    assert packed_shape(random_weight(72, 8, group_size=-1).shape) is not None


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_codes_and_activations_overflow_no_sum(cpu, bits, sign) -> None:
    weight = random_weight(256, 64, bits=bits)
    weight = replace(weight, qweight=torch.full_like(weight.qweight, -1))  # every code 15, or 255
    packed = cpu.prepare(weight)
    for num_rows in (1, 5, 70):
        x = torch.full((num_rows, 256), sign).bfloat16()
        assert relative_error(cpu.quantized_linear(x, packed, dtype=torch.float32), by_definition(x, weight)) < 1e-4
