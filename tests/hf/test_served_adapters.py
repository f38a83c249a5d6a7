"""An adapter that stock PEFT has saved gives PEFT's logits when it is served: float and Int4, reference and native."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qwartet import LLM
from tests.golden_data import golden_path
from tests.hf.loaded import GptqLinear, load

peft = pytest.importorskip("peft", reason="peft is not installed")
IDS = [1, 5, 9, 42, 7, 300, 12, 77]
SETTINGS = {
    "plain": {"r": 4, "lora_alpha": 6},
    "patterns": {"r": 4, "lora_alpha": 6, "rank_pattern": {"c_proj": 2}, "alpha_pattern": {"mlp.w1": 16}},
    "rslora": {"r": 16, "lora_alpha": 6, "use_rslora": True},
}


def in_peft(name: str, settings: dict[str, Any], directory: Path) -> torch.Tensor:
    """Logits of a golden set with a random adapter in PEFT, fp32; the adapter is saved."""
    torch.manual_seed(0)
    base = load(name, dtype="float32")
    for path, module in list(base.named_modules()):
        if isinstance(module, GptqLinear):  # which PEFT does not know: the same weights as floats
            dense = nn.Linear(module.in_features, module.out_features)
            dense.weight.data = module.weight.dequantize(torch.float32)
            bias = module.weight.bias
            dense.bias.data = torch.zeros(module.out_features) if bias is None else bias.float()
            parent, _, leaf = path.rpartition(".")
            setattr(base.get_submodule(parent), leaf, dense)
    names = ["c_attn", "c_proj", "w1", "w2"]
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=names, task_type="CAUSAL_LM", **settings)).eval()
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(directory)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([IDS])).logits[0]
    return logits


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["tiny-72b-base-sharded", "gptq-int4"])
def test_a_served_adapter_has_the_logits_of_peft(name: str, settings: str, tmp_path: Path) -> None:
    expected = in_peft(name, SETTINGS[settings], tmp_path)
    with LLM(golden_path(name), dtype="fp32", device="cpu", adapters={"mine": tmp_path}) as llm:
        torch.testing.assert_close(llm.logits(IDS, adapter="mine"), expected, rtol=1e-4, atol=1e-4)
        assert (llm.logits(IDS) - expected).abs().max() > 0.05
    with LLM(golden_path(name), device="cpu", adapters={"mine": tmp_path}) as llm:
        found = llm.logits(IDS, adapter="mine")
        assert (found - expected).norm() / expected.norm() < 0.03  # bf16, activations of 8 bits
