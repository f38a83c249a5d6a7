"""The reference and torch's linear against the dequantised weight; which kernels are chosen, and that it is told."""

from __future__ import annotations

import pytest
import torch

from qwartet.errors import KernelWarning, SettingError
from qwartet.kernels.backend import REFERENCE, Backend
from qwartet.kernels.cpu import library as native
from qwartet.kernels.reference import quantized_linear as int4_reference
from qwartet.kernels.select import select_backend
from qwartet.kernels.torch_int4 import TorchInt4Backend, can_prepare
from qwartet.layers.linear import QuantizedLinear
from tests.kernels.random_weights import random_bf16, random_weight

CPU = torch.device("cpu")
TORCH = TorchInt4Backend(None)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 7])
def test_the_reference_multiplies_by_the_dequantised_weight(bits, act_order, bias, num_rows) -> None:
    weight = random_weight(64, 24, bits=bits, group_size=16, act_order=act_order, bias=bias)
    x = torch.randn(num_rows, 64, generator=torch.Generator().manual_seed(9))
    expected = x.double() @ weight.dequantize().double().t() + (weight.bias.double() if bias else 0)
    out = REFERENCE.quantized_linear(x, REFERENCE.prepare(weight))
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("group_size", [32, 128, -1])
def test_torchs_operation_multiplies_by_the_dequantised_weight(act_order, sym, group_size) -> None:
    weight = random_weight(256, 48, group_size=group_size, act_order=act_order, sym=sym, bias=True)
    assert can_prepare(weight)
    x = random_bf16(2, 3, 256)
    expected = x.double() @ weight.dequantize().double().t() + weight.bias.double()
    out = TORCH.quantized_linear(x, TORCH.prepare(weight))
    assert out.shape == (2, 3, 48)
    # scales, offsets and the result are rounded to bf16
    assert (out - expected).norm() / expected.norm() < 1e-2


def test_what_torch_does_not_take_goes_to_the_reference() -> None:
    for weight in (random_weight(256, 40), random_weight(256, 48, bits=8), random_weight(64, 48, group_size=16)):
        prepared = TORCH.prepare(weight)
        assert prepared is weight
        x = random_bf16(3, weight.in_features)
        assert torch.equal(TORCH.quantized_linear(x, prepared), int4_reference.linear(x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("without", [False, True], ids=["native", "without"])
def test_the_result_has_the_dtype_of_the_activations(dtype, without, monkeypatch) -> None:
    if without:
        monkeypatch.setenv(native.ISA_VARIABLE, native.NO_LIBRARY)
    backend = select_backend(CPU, dtype)
    layer = QuantizedLinear(backend.prepare(random_weight(64, 48, bias=True)), backend)
    out = layer(torch.ones(2, 3, 64, dtype=dtype))
    assert out.dtype == dtype and out.shape == (2, 3, 48)


def test_the_native_kernels_serve_bf16_on_a_cpu_and_nothing_else(isa) -> None:
    assert select_backend(CPU, torch.bfloat16).names["quantized linear"] == f"native {isa}, int8 activations"
    assert (
        select_backend(CPU, torch.bfloat16, activations="exact").names["quantized linear"].endswith("exact activations")
    )
    for dtype in (torch.float32, torch.float16):
        assert select_backend(CPU, dtype) is REFERENCE
    assert select_backend(torch.device("cuda"), torch.bfloat16) is REFERENCE


def test_without_a_library_the_choice_says_what_it_costs_and_what_to_do(monkeypatch) -> None:
    monkeypatch.setenv(native.ISA_VARIABLE, native.NO_LIBRARY)
    name = select_backend(CPU, torch.bfloat16).names["quantized linear"]
    assert "torch int4" in name and "half of the memory bandwidth" in name and native.ISA_VARIABLE in name


def test_an_unknown_kind_of_activations_is_refused() -> None:
    for unknown in ("int4", ""):
        with pytest.raises(SettingError, match="exact or int8"):
            select_backend(CPU, torch.bfloat16, activations=unknown)


def test_a_weight_that_the_native_kernels_cannot_take_is_told_and_still_right(isa) -> None:
    weight = random_weight(80, 24, group_size=16)
    backend = select_backend(CPU, torch.bfloat16)
    with pytest.warns(KernelWarning, match="groups of 16"):
        layer = QuantizedLinear(backend.prepare(weight), backend)
    x = random_bf16(3, 80)
    assert torch.equal(layer(x), int4_reference.linear(x, weight))


def test_heads_that_the_native_attention_cannot_take_go_to_the_reference(isa) -> None:
    backend = select_backend(CPU, torch.bfloat16, head_dim=48, rotary_dim=48)
    assert type(backend).paged_attention is Backend.paged_attention and not backend.can_fuse
    assert "reference" in backend.names["attention"] and isa in backend.names["quantized linear"]


def test_the_environment_is_read_where_a_backend_is_chosen_and_never_again(isa, monkeypatch) -> None:
    backend, weight, x = select_backend(CPU, torch.bfloat16), random_weight(256, 64), random_bf16(3, 256)
    expected = backend.quantized_linear(x, backend.prepare(weight))
    monkeypatch.setenv(native.ISA_VARIABLE, "nonsense")
    assert torch.equal(backend.quantized_linear(x, backend.prepare(weight)), expected)
    with pytest.raises(SettingError, match="nonsense"):
        select_backend(CPU, torch.bfloat16)


def test_a_gradient_that_the_native_kernels_would_lose_is_refused(cpu) -> None:
    weight, dense, norm = random_weight(256, 64), random_bf16(64, 256), random_bf16(256)
    x, wide = random_bf16(3, 256).requires_grad_(), random_bf16(3, 256).float().requires_grad_()
    packed = cpu.prepare(weight)
    for operation in (
        lambda: cpu.quantized_linear(x, packed),
        lambda: cpu.dense_linear(x, dense),
        lambda: cpu.dense_linear(x.detach(), dense.clone().requires_grad_()),
        lambda: cpu.head_logits(x, dense),
        lambda: cpu.rms_norm(wide, norm, 1e-6),
        lambda: cpu.rms_norm(wide.detach(), norm.clone().requires_grad_(), 1e-6),
        lambda: cpu.silu_mul(x, x.detach()),
        lambda: cpu.embed(torch.tensor([1], dtype=torch.int32), dense.clone().requires_grad_()),
    ):
        with pytest.raises(SettingError, match="compute no gradients; load the model with trainable=True"):
            operation()
        with torch.no_grad():
            operation()
