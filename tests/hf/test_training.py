"""Loss and gradients through transformers: those of the original, in float and through quantised linears."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

from tests.golden_data import golden_path
from tests.hf.loaded import GptqLinear, load, loaded


@pytest.fixture
def prompt() -> torch.Tensor:
    return load_file(golden_path("tiny-72b/golden.safetensors"))["prompt_ids"][None].long()


def check_gradients(model, golden: dict[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad.norm(), golden[f"grad_norm.{name}"][0], rtol=1e-4, atol=1e-7)
        if f"grad.{name}" in golden:
            torch.testing.assert_close(parameter.grad, golden[f"grad.{name}"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("return_logits", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_the_originals(prompt: torch.Tensor, checkpointing: bool, return_logits: bool) -> None:
    golden = load_file(golden_path("tiny-72b/golden_loss.safetensors"))
    model = load("tiny-72b", dtype="float32").train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    result = model(prompt, labels=golden["labels"][None].long(), return_logits=return_logits)
    assert ("logits" in result) is return_logits
    result.loss.backward()
    torch.testing.assert_close(result.loss, golden["loss"][0], rtol=1e-4, atol=0)
    check_gradients(model, golden)


@pytest.mark.parametrize("num_items", [None, 7, torch.tensor(9)])
def test_the_loss_without_logits_is_that_with_logits(num_items) -> None:
    model = load("tiny-72b-base-sharded", dtype="float32").train()
    ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    for mask in (None, torch.tensor([[1] * 9, [1] * 5 + [0] * 4]), torch.tensor([[1] * 9, [0] * 4 + [1] * 5])):
        labels = ids.clone()
        labels[0, :3] = -100
        found = []
        for return_logits in (True, False):
            model.zero_grad()
            arguments = {} if num_items is None else {"num_items_in_batch": num_items}
            loss = model(ids, attention_mask=mask, labels=labels, return_logits=return_logits, **arguments).loss
            loss.backward()
            found.append((loss.detach(), [one.grad for one in model.parameters()]))
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_gradients_flow_in_eval_mode_too_and_through_a_cache(prompt: torch.Tensor) -> None:
    model = load("tiny-72b", dtype="float32")
    losses, norms = [], []
    for arguments in ({"use_cache": False}, {}):
        model.zero_grad()
        loss = model(prompt, labels=prompt, **arguments).loss
        loss.backward()
        losses.append(float(loss.detach()))
        norms.append(torch.stack([parameter.grad.norm() for parameter in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-4, atol=1e-7)


def test_ntk_and_logn_are_off_in_training() -> None:
    prompt = load_file(golden_path("tiny-7b/golden.safetensors"))["p300.ids"][None].long()
    model = load("tiny-7b", dtype="float32")
    with torch.no_grad():
        plain = load("tiny-7b", dtype="float32", use_dynamic_ntk=False, use_logn_attn=False)(prompt, use_cache=False)
        assert (model.train()(prompt).logits - plain.logits).abs().max() <= 1e-5
        assert (model.eval()(prompt).logits - plain.logits).abs().max() > 0.1


def test_a_training_step_in_bf16_lowers_the_loss(prompt: torch.Tensor) -> None:
    model = load("tiny-72b", dtype="bfloat16").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = model(prompt, labels=prompt).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[0]


@pytest.mark.parametrize("name", ["gptq-int4", "gptq-int8-allbias", "gptq-int4-descact"])
def test_a_quantised_linear_passes_on_the_gradient_of_its_dequantised_weight(name: str) -> None:
    for dtype in ("float32", "bfloat16"):
        linear = loaded(name, dtype).transformer.h[0].mlp.c_proj
        assert isinstance(linear, GptqLinear)
        weight = linear.weight.dequantize()
        x = torch.randn(5, linear.in_features, generator=torch.Generator().manual_seed(0)).to(linear_dtype(dtype))
        x.requires_grad_()
        grad = torch.randn(5, linear.out_features, generator=torch.Generator().manual_seed(1))
        linear(x).backward(grad.to(x.dtype))
        torch.testing.assert_close(x.grad.float(), grad.to(x.dtype).float() @ weight, rtol=2e-2, atol=2e-2)
        assert linear(x.detach()).requires_grad is False


def linear_dtype(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def test_the_gradient_reaches_the_embedding_of_a_quantised_model(prompt: torch.Tensor) -> None:
    model = load("gptq-int4", dtype="float32").train()
    model(prompt.clamp(max=511), labels=prompt.clamp(max=511)).loss.backward()
    assert model.transformer.wte.weight.grad.norm() > 0
    assert not any(parameter.dtype == torch.int32 for parameter in model.parameters()), "codes are not trained"


def test_a_quantised_linear_keeps_its_scales_when_the_model_is_cast_and_can_be_copied() -> None:
    model = load("gptq-int4", dtype="float32")
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    before = model.transformer.h[0].attn.c_attn.scales.clone()
    with torch.no_grad():
        expected = model(ids).logits
        model.to(torch.bfloat16)
        assert model.transformer.h[0].attn.c_attn.scales.dtype == torch.float16
        assert (model(ids).logits.float() - expected).abs().max() <= 0.4
        copied = copy.deepcopy(model)
        assert copied(ids).logits.equal(model(ids).logits)
        model.to(torch.float32)
        assert (model(ids).logits - expected).abs().max() <= 0.1, "only the embedding and the head were rounded"
    assert model.transformer.h[0].attn.c_attn.scales.equal(before)


def test_a_new_model_is_initialised_as_published() -> None:
    config = copy.deepcopy(loaded("tiny-72b").config)
    torch.manual_seed(0)
    model = type(loaded("tiny-72b"))(config)
    block = model.transformer.h[0]
    assert float(block.attn.c_attn.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(block.mlp.c_proj.weight.std()) == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert block.ln_1.weight.eq(1).all() and block.attn.c_attn.bias.eq(0).all()
    assert model(torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.isfinite()
