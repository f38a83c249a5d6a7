"""Adapters change nothing at first, take all of the gradient, and it is that of the whole network behind them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qwartet import DEMO
from qwartet.errors import SettingError
from qwartet.kernels.reference.quantized_linear import linear
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.linear import QuantizedLinear
from qwartet.layers.lora import LoraLinear, add_lora
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel
from tests.kernels.random_weights import random_weight

IDS = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]


@pytest.fixture
def network() -> QwenModel:
    return load_model(DEMO, dtype="fp32", trainable=True)


def loss_of(network: QwenModel) -> Tensor:
    logits = network(dense_batch(IDS, network.config.position, training=True))
    return logits.float().log_softmax(-1)[:, 20].sum()


def test_a_new_adapter_changes_no_bit_and_only_adapters_are_trained(network: QwenModel) -> None:
    before = loss_of(network)
    adapters = add_lora(network, ["attention.qkv", "mlp.down"], rank=4, alpha=8)
    assert len(adapters) == 2 * network.config.num_layers
    assert torch.equal(loss_of(network), before)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {f"{name}.{leaf}" for name in adapters for leaf in "ab"}


def test_the_gradient_is_the_slope_of_the_loss_through_all_layers_behind(network: QwenModel) -> None:
    adapter = add_lora(network, ["layers.0.attention.qkv"], rank=2, alpha=4)["layers.0.attention.qkv"]
    with torch.no_grad():
        adapter.b.normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
    loss_of(network).backward()
    assert adapter.b.grad is not None
    direction = torch.randn(adapter.b.shape, generator=torch.Generator().manual_seed(1))
    slope, step = float((adapter.b.grad * direction).sum()), 1e-3
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            adapter.b += sign * step * direction
            losses.append(float(loss_of(network).double()))
            adapter.b -= sign * step * direction
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=2e-2)
    whole = adapter.b.grad.clone()
    adapter.b.grad = None
    network.layers[1] = _Nothing()
    loss_of(network).backward()
    assert not torch.allclose(adapter.b.grad, whole, rtol=0.05)


class _Nothing(nn.Module):
    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


def test_the_native_kernels_refuse_to_lose_the_gradient_of_an_adapter() -> None:
    network = load_model(DEMO, dtype="bf16")
    if network.backend.layout is None:
        pytest.skip("there is no native library")
    add_lora(network, ["layers.0.attention.qkv"], rank=2, alpha=4)
    with pytest.raises(SettingError, match="trainable=True"):
        loss_of(network)
    with torch.no_grad():
        assert loss_of(network).isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("act_order", [False, True])
def test_the_gradient_through_a_quantised_weight_is_that_of_the_dense_one(dtype, act_order, monkeypatch) -> None:
    monkeypatch.setattr("qwartet.kernels.reference.quantized_linear.TILE_VALUES", 256 * 7)  # several tiles
    weight = random_weight(256, 40, act_order=act_order, bias=True)
    x = torch.randn(2, 3, 256, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    grad_y = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    (found,) = torch.autograd.grad(linear(x, weight), x, grad_y)
    expected = grad_y.double() @ weight.dequantize().to(dtype).double()
    assert found.dtype == dtype and found.shape == x.shape
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * float(expected.std()))


def test_dropout_is_for_training_alone() -> None:
    adapter = LoraLinear(QuantizedLinear(random_weight(64, 32), load_backend()), rank=2, alpha=2, dropout=0.5)
    nn.init.ones_(adapter.b)
    x = torch.ones(4, 64)
    adapter.eval()
    assert torch.equal(adapter(x), adapter(x))
    adapter.train()
    assert not torch.equal(adapter(x), adapter(x))


def load_backend():
    from qwartet.kernels.backend import REFERENCE

    return REFERENCE


def test_a_target_that_is_no_linear_is_refused_with_those_that_are(network: QwenModel) -> None:
    with pytest.raises(SettingError, match=r"'c_attn' matches no linear .* attention\.qkv, .* mlp\.up"):
        add_lora(network, ["c_attn"], rank=2, alpha=4)
