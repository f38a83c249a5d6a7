"""The gradient of a linear's input against the dequantised weight in fp64, on every backend and instruction set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qwartet.errors import SettingError
from qwartet.kernels import differentiable
from qwartet.kernels.backend import REFERENCE
from qwartet.kernels.cpu.backend import CpuBackend
from qwartet.kernels.torch_int4 import TorchInt4Backend
from tests.kernels.random_weights import random_bf16, random_weight

SUMS = 1e-5  # of the gradient's norm: fp32 sums of up to 700 products
ROUNDED = 4e-3  # one rounding to bf16
SHAPES = [  # inputs, outputs, group size
    (128, 64, 128),
    (64, 24, 64),
    (96, 40, 32),
    (200, 72, -1),
    (640, 704, 128),
    (320, 136, 96),
    (104, 8, 32),
]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("num_inputs", "num_outputs", "group_size"), SHAPES)
def test_the_gradient_is_the_product_with_the_dequantised_weight(
    cpu, bits, num_inputs, num_outputs, group_size
) -> None:
    for act_order, sym in ((False, True), (True, True), (False, False), (True, False)):
        weight = random_weight(
            num_inputs, num_outputs, bits=bits, group_size=group_size, act_order=act_order, sym=sym, bias=True
        )
        prepared, matrix = cpu.prepare(weight), weight.dequantize().double()
        for num_rows in (1, 17, 40, 130):
            grad_y = random_bf16(num_rows, num_outputs, seed=num_rows)
            expected = grad_y.double() @ matrix
            exact = cpu.quantized_linear_gradient(grad_y.float(), prepared, torch.float32)
            assert relative_error(exact, expected) < SUMS
            rounded = cpu.quantized_linear_gradient(grad_y, prepared, torch.float32)
            assert relative_error(rounded, expected) < ROUNDED, "weights may be rounded to bf16"
            assert cpu.quantized_linear_gradient(grad_y, prepared, torch.bfloat16).equal(rounded.bfloat16())
            assert cpu.quantized_linear_gradient(grad_y.float(), prepared, torch.bfloat16).equal(rounded.bfloat16())
            reference = REFERENCE.quantized_linear_gradient(grad_y, weight, torch.bfloat16)
            assert relative_error(reference, expected) < ROUNDED


def test_the_gradient_of_a_dense_weight_and_its_product(cpu: CpuBackend) -> None:
    for num_inputs, num_outputs, num_rows in ((128, 64, 3), (70, 131, 40), (300, 1000, 17)):
        weight, grad_y = random_bf16(num_outputs, num_inputs), random_bf16(num_rows, num_outputs, seed=1).float()
        expected = grad_y.double() @ weight.double()
        for backend in (cpu, REFERENCE):
            found = backend.dense_linear_gradient(grad_y, weight, torch.float32)
            assert relative_error(found, expected) < SUMS
            found = backend.dense_linear_gradient(grad_y, weight, torch.bfloat16)
            assert relative_error(found, expected) < ROUNDED
        x = random_bf16(num_rows, num_inputs, seed=2)
        logits = cpu.loss_logits(x, weight)
        assert logits.dtype == torch.float32
        assert relative_error(logits, x.double() @ weight.double().t()) < SUMS


def test_a_row_depends_on_no_other_row_and_no_thread(cpu: CpuBackend, threads) -> None:
    weight = cpu.prepare(random_weight(384, 200, act_order=True))
    grad_y = random_bf16(520, 200)  # more than a chunk
    threads(1)
    expected = cpu.quantized_linear_gradient(grad_y, weight, torch.float32)
    for count, rows in ((1, 3), (2, 100), (3, 520)):
        threads(count)
        assert cpu.quantized_linear_gradient(grad_y[:rows], weight, torch.float32).equal(expected[:rows])
    assert cpu.quantized_linear_gradient(grad_y[:0], weight, torch.float32).shape == (0, 384)


def test_the_fallback_without_a_library_has_the_gradient_of_its_own_weight() -> None:
    backend = TorchInt4Backend("no library")
    for act_order in (False, True):
        weight = random_weight(256, 64, act_order=act_order, bias=True)
        grad_y = random_bf16(2, 5, 64)
        expected = grad_y.double() @ weight.dequantize().double()
        found = backend.quantized_linear_gradient(grad_y, backend.prepare(weight), torch.bfloat16)
        assert found.shape == (2, 5, 256)
        assert relative_error(found, expected) < 2 * ROUNDED


def test_a_linear_is_differentiable_in_its_input_and_once(cpu: CpuBackend) -> None:
    weight = random_weight(256, 128, bias=True)
    prepared = cpu.prepare(weight)
    x = random_bf16(2, 3, 256).requires_grad_()
    with pytest.raises(SettingError, match="compute no gradients"):
        cpu.quantized_linear(x, prepared)
    y = differentiable.quantized_linear(x, prepared, cpu)
    assert y.equal(cpu.quantized_linear(x.detach(), prepared))
    grad_y = random_bf16(2, 3, 128, seed=1).requires_grad_()
    (grad_x,) = torch.autograd.grad(y, x, grad_y, create_graph=True)
    assert relative_error(grad_x, grad_y.double() @ weight.dequantize().double()) < ROUNDED
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad_x.sum().backward()
