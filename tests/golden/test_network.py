"""The network against the original code: logits, hidden states, loss and gradients of the stored checkpoints."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from qwartet.layers.dense_batch import dense_batch
from qwartet.models.load import load_model
from tests.golden_data import golden_path
from tests.published_names import disk_parameter_name

FLOAT_SETS = ["tiny-72b", "tiny-72b-base-sharded"]
QUANTISED_SETS = ["gptq-int4", "gptq-int8-allbias", "gptq-int4-descact"]

# The README of the golden data: what two correct implementations may differ by.
TOLERANCE = {"fp32": 2e-4, "fp16": 0.05, "bf16": 0.4}
MEAN_TOLERANCE = {"fp32": 2e-4, "fp16": 0.05, "bf16": 0.04}


def prompt_logits(model, prompt_ids) -> torch.Tensor:
    with torch.no_grad():
        return model(dense_batch([prompt_ids.tolist()], model.config.position)).float()


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", FLOAT_SETS + QUANTISED_SETS)
def test_prompt_logits_are_the_originals(name: str, dtype: str) -> None:
    golden = load_file(golden_path(f"{name}/golden.safetensors"))
    logits = prompt_logits(load_model(golden_path(name), dtype=dtype), golden["prompt_ids"])
    difference = (logits - golden["logits"]).abs()
    assert difference.max() <= TOLERANCE[dtype]
    assert difference.mean() <= MEAN_TOLERANCE[dtype]


def test_bf16_logits_are_those_of_the_original_run_in_bf16() -> None:
    golden = load_file(golden_path("tiny-72b-base-sharded/golden.safetensors"))
    logits = prompt_logits(load_model(golden_path("tiny-72b-base-sharded"), dtype="bf16"), golden["prompt_ids"])
    expected = next(tensor for key, tensor in golden.items() if key.startswith("logits_bf16_last")).float()
    assert (logits[-len(expected) :] - expected).abs().max() <= TOLERANCE["bf16"]


@pytest.mark.filterwarnings("ignore::qwartet.errors.CheckpointWarning")
def test_zeros_stored_as_version_2_give_the_same_logits_as_version_1() -> None:
    prompt = load_file(golden_path("gptq-int4/golden.safetensors"))["prompt_ids"]
    version_1 = prompt_logits(load_model(golden_path("gptq-int4"), dtype="fp32"), prompt)
    version_2 = prompt_logits(load_model(golden_path("gptq-int4-v2zeros"), dtype="fp32"), prompt)
    assert torch.equal(version_1, version_2)


def test_ntk_and_logn_follow_the_prompt_length() -> None:
    golden = load_file(golden_path("tiny-7b/golden.safetensors"))
    model = load_model(golden_path("tiny-7b"), dtype="fp32")
    prompts = [key.removesuffix(".ids") for key in golden if key.startswith("p") and key.endswith(".ids")]
    assert prompts, "the golden set holds no prompts"
    for prompt in prompts:
        logits = prompt_logits(model, golden[f"{prompt}.ids"])[golden[f"{prompt}.positions"].long()]
        assert (logits - golden[f"{prompt}.logits"]).abs().max() <= TOLERANCE["fp32"], prompt


def test_several_prompts_in_one_batch_do_not_touch_each_other() -> None:
    golden = load_file(golden_path("tiny-7b/golden.safetensors"))
    model = load_model(golden_path("tiny-7b"), dtype="fp32")
    prompts = sorted(key for key in golden if key.startswith("p") and key.endswith(".ids"))[:3]
    rows = [golden[key].tolist() for key in prompts]
    with torch.no_grad():
        together = model(dense_batch(rows, model.config.position)).split([len(row) for row in rows])
    for key, row, logits in zip(prompts, rows, together, strict=True):
        alone = prompt_logits(model, torch.tensor(row))
        assert (alone - logits).abs().max() <= TOLERANCE["fp32"], key


def capture_outputs(model, batch) -> dict[str, torch.Tensor]:
    captured: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _i, output, name=name: captured.__setitem__(name, output))
    with torch.no_grad():
        model(batch)
    return captured


def test_hidden_states_are_the_originals() -> None:
    golden = load_file(golden_path("tiny-72b/golden.safetensors"))
    model = load_model(golden_path("tiny-72b"), dtype="fp32")
    captured = capture_outputs(model, dense_batch([golden["prompt_ids"].tolist()], model.config.position))
    places = {
        "hidden.embed": "embedding",
        "hidden.ln_f": "norm",
        "layer0.ln_1": "layers.0.attention_norm",
        "layer0.c_attn": "layers.0.attention.qkv",
        "layer0.attn_out": "layers.0.attention",
        "layer0.ln_2": "layers.0.mlp_norm",
        "layer0.w1": "layers.0.mlp.up",
        "layer0.w2": "layers.0.mlp.gate",
        "layer0.mlp_out": "layers.0.mlp",
    }
    places |= {key: f"layers.{key.rsplit('_', 1)[1]}" for key in golden if key.startswith("hidden.after_layer_")}
    for key, module in places.items():
        # Of the usual size of a value: an element near 0 is a difference of large ones, and their last bits differ
        # from one processor's matrix kernels to another's.
        usual = golden[key].square().mean().sqrt()
        assert (captured[module] - golden[key]).abs().max() <= 1e-4 * usual, key


def test_loss_and_gradients_are_the_originals() -> None:
    prompt = load_file(golden_path("tiny-72b/golden.safetensors"))["prompt_ids"]
    golden = load_file(golden_path("tiny-72b/golden_loss.safetensors"))
    model = load_model(golden_path("tiny-72b"), dtype="fp32").requires_grad_(True)
    logits = model(dense_batch([prompt.tolist()], model.config.position, training=True))
    loss = F.cross_entropy(logits[:-1], golden["labels"].long()[1:], ignore_index=-100)
    loss.backward()
    torch.testing.assert_close(loss, golden["loss"][0], rtol=1e-4, atol=0)
    for name, parameter in model.named_parameters():
        disk = disk_parameter_name(name)
        torch.testing.assert_close(parameter.grad.norm(), golden[f"grad_norm.{disk}"][0], rtol=1e-4, atol=1e-7)
        if f"grad.{disk}" in golden:
            torch.testing.assert_close(parameter.grad, golden[f"grad.{disk}"], rtol=1e-4, atol=1e-6)
