"""LoRA of PEFT on GPTQ linears: the numbers of PEFT on the dequantised model, its names, and its files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qwartet.errors import SettingError
from tests.hf.loaded import GptqLinear, QWenLMHeadModel, load

peft = pytest.importorskip("peft", reason="peft is not installed")
IDS = torch.tensor([[1, 5, 9, 42, 7, 300, 11, 2], [3, 8, 200, 17, 90, 1, 2, 3]])
TARGETS = ["c_attn", "c_proj", "w1", "w2"]


def settings(**arguments: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | arguments)


def adapted(model: Any, **arguments: Any) -> Any:
    """A model with an adapter whose matrices are random, the same for every model."""
    model = peft.get_peft_model(model, settings(**arguments))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.train()


def dequantised(name: str) -> Any:
    """The stock fp32 model with the same weights: linears are torch's own."""
    model = load(name, dtype="float32")
    for module in list(model.modules()):
        for leaf, child in list(module.named_children()):
            if isinstance(child, GptqLinear):
                linear = torch.nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)
                linear.weight.data = child.weight.dequantize()
                if child.bias is not None:
                    linear.bias.data = child.bias.float()
                setattr(module, leaf, linear)
    return model


def loss_and_gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    found = {name: one.grad.float() for name, one in model.named_parameters() if one.grad is not None}
    return float(loss.detach()), found


@pytest.mark.parametrize("name", ["gptq-int4", "gptq-int4-descact", "gptq-int8-allbias"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.06)])
def test_loss_and_gradients_are_those_of_peft_on_the_dequantised_model(name: str, dtype: str, tolerance: float) -> None:
    expected_loss, expected = loss_and_gradients(adapted(dequantised(name)))
    model = adapted(load(name, dtype=dtype))
    loss, found = loss_and_gradients(model)
    assert loss == pytest.approx(expected_loss, rel=min(tolerance, 0.01))
    assert found.keys() == expected.keys()
    assert all("lora_" in one for one in found), "the base is frozen"
    for one, gradient in found.items():
        error = float((gradient - expected[one]).norm() / expected[one].norm())
        assert error < tolerance, (one, error)


@pytest.mark.parametrize("name", ["gptq-int4", "gptq-int4-descact"])
def test_one_operation_computes_what_pefts_own_sequence_does(name: str, monkeypatch) -> None:
    model = adapted(load(name, dtype="bfloat16"))
    found = loss_and_gradients(model)
    model.zero_grad()
    linear = type(model.base_model.model.transformer.h[0].mlp.w1)
    monkeypatch.setattr(linear, "_only_adapter", lambda self: None)
    expected = loss_and_gradients(model)
    assert found[0] == pytest.approx(expected[0], rel=1e-3)
    for one, gradient in found[1].items():
        assert float((gradient - expected[1][one]).norm() / expected[1][one].norm()) < 0.02, one


def test_dropout_several_adapters_and_none_take_pefts_own_sequence() -> None:
    model = adapted(load("gptq-int4", dtype="bfloat16"), lora_dropout=0.5)
    linear = model.base_model.model.transformer.h[0].mlp.w1
    assert linear._only_adapter() is None and linear.eval()._only_adapter() == "default"
    model.add_adapter("second", settings())
    model.base_model.set_adapter(["default", "second"])
    assert linear._only_adapter() is None
    with model.disable_adapter():
        assert linear._only_adapter() is None


def test_a_trained_adapter_is_loaded_through_every_door_and_has_pefts_names(tmp_path: Path) -> None:
    model = peft.prepare_model_for_kbit_training(load("gptq-int4", dtype="bfloat16"))
    assert model.transformer.wte.weight.dtype == torch.bfloat16
    model = adapted(model)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=5e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[0]
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.eval()(IDS).logits
    by_hand = load("gptq-int4", dtype="bfloat16")
    by_hand.load_adapter(tmp_path)
    doors = (
        load(tmp_path, dtype="bfloat16"),
        by_hand,
        peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16),
        peft.PeftModel.from_pretrained(load("gptq-int4", dtype="bfloat16"), tmp_path),
    )
    for one in doors:
        with torch.no_grad():
            assert one.eval()(IDS).logits.equal(expected)
    stock = peft.get_peft_model(dequantised("gptq-int4"), settings())
    names = set(peft.get_peft_model_state_dict(stock))
    assert set(peft.get_peft_model_state_dict(doors[3])) == names
    assert "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight" in names


def test_what_needs_a_dense_weight_is_an_error_that_says_what_to_do() -> None:
    model = adapted(load("gptq-int4", dtype="bfloat16"))
    for merge in (model.merge_and_unload, model.merge_adapter, model.base_model.model.transformer.h[0].mlp.w1.merge):
        with pytest.raises(SettingError, match="`qwartet merge`, then quantize the result with `qwartet quantize`"):
            merge()
    assert isinstance(model.unload(), QWenLMHeadModel), "the adapter can be taken off"
    with pytest.raises(SettingError, match="init_lora_weights='pissa' changes the base weight"):
        peft.get_peft_model(load("gptq-int4", dtype="bfloat16"), settings(init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="use_dora"):
        peft.get_peft_model(load("gptq-int4", dtype="bfloat16"), settings(use_dora=True))
    merged = adapted(load("tiny-72b-base-sharded", dtype="float32")).merge_and_unload()
    assert isinstance(merged, QWenLMHeadModel), "a float model still merges"


CHILD = """
import sys
first, second = sys.argv[1:]
__import__(first)
assert first == "peft" or "peft" not in sys.modules, "importing qwartet.hf imports peft"
__import__(second)
from peft.tuners.lora.model import LoraModel
assert LoraModel._create_new_module.is_of_qwartet
assert LoraModel.__module__ == "peft.tuners.lora.model"
"""


@pytest.mark.parametrize("order", [("qwartet.hf", "peft"), ("peft", "qwartet.hf")])
def test_peft_may_be_imported_before_or_after(order: tuple[str, str]) -> None:
    subprocess.run([sys.executable, "-c", CHILD, *order], check=True)
