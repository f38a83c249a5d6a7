"""Converted checkpoints as stock transformers sees them; GPTQ weights are dequantised here, by the published rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

FLOATS = ("tiny-72b", "tiny-72b-base-sharded", "tiny-7b")
QUANTIZED = ("gptq-int4", "gptq-int4-v2zeros", "gptq-int4-descact", "gptq-int8-allbias")


def tensors_of(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by name."""
    files = [file for file in sorted(directory.glob("*.safetensors")) if not file.name.startswith("golden")]
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def json_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def stock_model(directory: Path) -> Any:
    """The model in fp32, every tensor of the files used and none missing."""
    raw = json_of(directory / "config.json")
    settings = raw.pop("quantization_config", None)
    tensors = tensors_of(directory)
    if settings is None:
        auto = transformers.AutoModelForCausalLM
        model, told = auto.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
        assert not any(told.values()), told
        return model.eval()
    assert settings["quant_method"] == settings["checkpoint_format"] == "gptq"
    config = transformers.AutoConfig.for_model(**raw)
    model = getattr(transformers, raw["architectures"][0])(config)
    dense = {name: tensor.float() for name, tensor in tensors.items() if name.endswith((".weight", ".bias"))}
    for name in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
        linear = {leaf: tensors[f"{name}.{leaf}"] for leaf in ("qweight", "qzeros", "scales", "g_idx")}
        dense[f"{name}.weight"] = dequantized(**linear, bits=settings["bits"])
    model.load_state_dict(dense, strict=True)
    return model.float().eval()


def dequantized(qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor, bits: int) -> Tensor:
    """The matrix [N, K] of a linear in format v1, which stores a zero one too low."""
    shifts = torch.arange(0, 32, bits)
    codes = ((qweight[:, None] >> shifts[None, :, None]) & (2**bits - 1)).reshape(-1, qweight.shape[1])
    zeros = ((qzeros[:, :, None] >> shifts) & (2**bits - 1)).reshape(qzeros.shape[0], -1)
    zeros = (zeros + 1) & (2**bits - 1)
    group = g_idx.long()
    return (scales.float()[group] * (codes - zeros[group]).float()).T


def logits_of(model: Any, ids: Tensor, **settings: Any) -> Tensor:
    """Logits [T, V] of one prompt."""
    with torch.no_grad():
        return model(ids.long()[None], **settings).logits[0]


def greedy(model: Any, ids: Tensor, count: int) -> Tensor:
    """The ids that follow a prompt, with the KV cache."""
    plain = transformers.GenerationConfig(
        do_sample=False, repetition_penalty=1.0, max_new_tokens=count, pad_token_id=0, eos_token_id=[]
    )  # what is not set here is the model's own
    return model.generate(ids.long()[None], generation_config=plain)[0, len(ids) :].int()
