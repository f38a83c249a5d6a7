"""PEFT adapters: trained on our model, saved, and loaded again through every door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwartet.errors import CheckpointError
from tests.hf.loaded import QWenLMHeadModel, load, transformers

peft = pytest.importorskip("peft", reason="peft is not installed")
IDS = torch.tensor([[1, 5, 9, 42]])


def with_adapter() -> Any:
    """A model with LoRA on the published names, its matrices not zero."""
    torch.manual_seed(0)
    base = load("tiny-72b", dtype="float32")
    names = ["c_attn", "c_proj", "w1", "w2"]
    settings = peft.LoraConfig(r=4, target_modules=names, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, settings).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    model = with_adapter()
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", model(IDS).logits.detach()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_a_saved_adapter_gives_the_same_logits_through_every_door(saved: tuple[Path, torch.Tensor]) -> None:
    directory, expected = saved
    plain = logits(load("tiny-72b", dtype="float32"))
    assert (plain - expected).abs().max() > 0.1
    through_auto = load(directory, dtype="float32")
    assert isinstance(through_auto, QWenLMHeadModel)
    by_hand = load("tiny-72b", dtype="float32")
    by_hand.load_adapter(directory, adapter_name="mine")
    doors = (
        through_auto,
        by_hand,
        peft.AutoPeftModelForCausalLM.from_pretrained(directory, dtype=torch.float32),
        peft.PeftModel.from_pretrained(load("tiny-72b", dtype="float32"), directory),
    )
    for model in doors:
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    with doors[-1].disable_adapter():
        torch.testing.assert_close(logits(doors[-1]), plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"adapter: tensor transformer\.h\.\d+\..*lora_[AB]\.weight is missing"),
        ("extra", r"adapter: tensor transformer\.h\.9\.w is not of the adapter's configuration"),
        ("broken", r"adapter_model\.safetensors: cannot be read"),
        ("pickle", r"adapter: adapter_model\.safetensors is missing; save the adapter as safetensors"),
    ],
)
def test_a_broken_adapter_is_an_error_and_no_random_weight(
    saved: tuple[Path, torch.Tensor], change: str, message: str
) -> None:
    file = saved[0] / "adapter_model.safetensors"
    tensors = load_file(file)
    if change == "missing":
        tensors.pop(sorted(tensors)[0])
    if change == "extra":
        tensors["base_model.model.transformer.h.9.w"] = torch.zeros(1)
    save_file(tensors, file)
    if change == "broken":
        file.write_bytes(file.read_bytes()[:100])
    if change == "pickle":
        torch.save(tensors, saved[0] / "adapter_model.bin")
        file.unlink()
    with pytest.raises(CheckpointError, match=message):
        load(saved[0], dtype="float32")


def test_an_adapter_trains_and_merges_into_a_published_checkpoint(tmp_path: Path) -> None:
    model = with_adapter().train()
    result = model(IDS, labels=IDS)
    result.loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained and all("lora_" in name for name in trained)
    merged = model.eval().merge_and_unload()
    expected = logits(merged)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load(tmp_path / "merged")), expected, rtol=0, atol=0)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "merged").model_type == "qwen"
