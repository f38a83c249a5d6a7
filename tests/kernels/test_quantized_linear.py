"""Every GPTQ linear kernel against x @ dequantised weight + bias; the reference is the first of them."""

from __future__ import annotations

import pytest
import torch

from qwartet.kernels.select import REFERENCE, describe_kernels, select_quantized_linear
from qwartet.layers.linear import QuantizedLinear
from qwartet.quant_format.weight import QuantizedWeight

KERNELS = [REFERENCE]


def random_weight(bits: int, *, act_order: bool = False, bias: bool = False, group_size: int = 16) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(bits)
    num_inputs, num_outputs = 64, 24
    num_groups = num_inputs // group_size
    g_idx = None
    if act_order:
        g_idx = (torch.arange(num_inputs) // group_size)[torch.randperm(num_inputs, generator=generator)].int()
    weight = QuantizedWeight.from_codes(
        torch.randint(2**bits, (num_inputs, num_outputs), generator=generator).to(torch.uint8),
        torch.rand(num_groups, num_outputs, generator=generator) / 2**bits,
        torch.full((num_groups, num_outputs), 2 ** (bits - 1), dtype=torch.uint8),
        bits=bits,
        group_size=group_size,
        sym=True,
        g_idx=g_idx,
    )
    if not bias:
        return weight
    fields = vars(weight) | {"bias": torch.randn(num_outputs, generator=generator).half()}
    return QuantizedWeight(**fields)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 7])
def test_a_kernel_multiplies_by_the_dequantised_weight(kernel, bits, act_order, bias, num_rows) -> None:
    weight = random_weight(bits, act_order=act_order, bias=bias)
    x = torch.randn(num_rows, 64, generator=torch.Generator().manual_seed(9))
    expected = x.double() @ weight.dequantize().double().t() + (weight.bias.double() if bias else 0)
    out = kernel.linear(x, kernel.prepare(weight))
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_result_has_the_dtype_of_the_activations(dtype: torch.dtype) -> None:
    kernel = select_quantized_linear(torch.device("cpu"), dtype)
    layer = QuantizedLinear(random_weight(4, bias=True), kernel)
    out = layer(torch.ones(2, 3, 64, dtype=dtype))
    assert out.dtype == dtype and out.shape == (2, 3, 24)


def test_the_choice_of_kernels_is_told() -> None:
    chosen = describe_kernels(torch.device("cpu"), torch.bfloat16)
    assert chosen["quantized linear"] == select_quantized_linear(torch.device("cpu"), torch.bfloat16).name
    assert "attention" in chosen
