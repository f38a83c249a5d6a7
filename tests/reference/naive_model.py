"""The oracle: first-generation Qwen written straight from its equations, every token recomputed from nothing.

Plain torch functions over a dict of tensors by their names on disk and the keys of config.json. No cache, no batch,
no module, and nothing of the package under test: what the two have in common can only be the model itself. The goldens
hold it to the original code (tests/reference/test_naive_model.py), and it holds the engine where no golden reaches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

Config = Mapping[str, Any]
Weights = Mapping[str, Tensor]
Stored = Callable[[Tensor], Tensor]
"""Keys or values [T, H, D] as they are -> as a cache gives them back: the same, unless it quantises."""


def read_checkpoint(directory: Path) -> tuple[Config, Weights]:
    """config.json and all tensors of a directory: fp32, GPTQ linears as dense weights."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    index = directory / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    tensors = {name: tensor for file in files for name, tensor in load_file(directory / file).items()}
    quantized = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    bits = config["quantization_config"]["bits"] if quantized else 0
    for name in quantized:
        parts = (tensors.pop(f"{name}.{leaf}") for leaf in ("qweight", "qzeros", "scales", "g_idx"))
        tensors[f"{name}.weight"] = dequantize(*parts, bits)
    return config, {name: tensor.float() for name, tensor in tensors.items()}


def dequantize(qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor, bits: int) -> Tensor:
    """The dense weight [out, in] of a GPTQ linear in format v1: scale * (code - (stored zero + 1))."""
    lanes, mask = 32 // bits, 2**bits - 1
    codes = torch.stack([(qweight >> (bits * lane)) & mask for lane in range(lanes)], dim=1).flatten(0, 1)  # [in, out]
    zeros = torch.stack([(qzeros >> (bits * lane)) & mask for lane in range(lanes)], dim=2).flatten(1, 2)  # [G, out]
    zeros = (zeros + 1) & mask
    groups = g_idx.long()
    return (scales.float()[groups] * (codes - zeros[groups]).float()).t()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def ntk_alpha(config: Config, prompt_length: int) -> float:
    """2 ** ceil(log2(L / train_length) + 1) - 1, at least 1."""
    if not config["use_dynamic_ntk"]:
        return 1
    return max(2 ** math.ceil(math.log(prompt_length / config["seq_length"], 2) + 1) - 1, 1)


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Rotary embedding of x [T, H, D]: elements j and j + D/2 turn by the angle position * base ** (-2j / D)."""
    dim = x.shape[-1]
    frequencies = 1.0 / base ** (torch.arange(0, dim, 2).float() / dim)
    angles = (positions.float()[:, None] * frequencies)[:, None, :]  # [T, 1, D / 2]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    x1, x2 = x[..., : dim // 2], x[..., dim // 2 :]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)


def logn_factors(config: Config, positions: Tensor) -> Tensor:
    """log(p) / log(train_length) for 1-based positions p beyond train_length, else 1."""
    train_length = config["seq_length"]
    return torch.tensor([max(math.log(p + 1) / math.log(train_length), 1.0) for p in positions.tolist()])


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.weight"].t()
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def attention(
    config: Config, weights: Weights, name: str, x: Tensor, positions: Tensor, alpha: float, stored: Stored | None
) -> Tensor:
    num_tokens, num_heads, dim = len(x), config["num_attention_heads"], config["kv_channels"]
    base = config["rotary_emb_base"] * alpha ** (dim / (dim - 2))
    query, key, value = (
        part.reshape(num_tokens, num_heads, dim) for part in linear(weights, f"{name}.c_attn", x).chunk(3, dim=-1)
    )
    query, key = rotate(query, positions, base), rotate(key, positions, base)
    if config["use_logn_attn"]:
        query = query * logn_factors(config, positions).to(x.dtype)[:, None, None]
    if stored is not None:
        key, value = stored(key), stored(value)
    scores = torch.einsum("ihd,jhd->hij", query, key) / math.sqrt(dim)
    is_future = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(diagonal=1)
    probabilities = scores.masked_fill(is_future, -math.inf).softmax(-1)
    mixed = torch.einsum("hij,jhd->ihd", probabilities, value).reshape(num_tokens, num_heads * dim)
    return linear(weights, f"{name}.c_proj", mixed)


def mlp(weights: Weights, name: str, x: Tensor) -> Tensor:
    gate = linear(weights, f"{name}.w2", x)
    return linear(weights, f"{name}.c_proj", linear(weights, f"{name}.w1", x) * gate * torch.sigmoid(gate))


def naive_logits(
    config: Config,
    weights: Weights,
    ids: Sequence[int],
    *,
    prompt_length: int | None = None,
    first_position: int = 0,
    stored: Stored | None = None,
) -> Tensor:
    """Logits [T, V] of T ids; `prompt_length` fixes the NTK alpha (None: T), `first_position` is a padded row's."""
    alpha = ntk_alpha(config, len(ids) if prompt_length is None else prompt_length)
    positions = torch.arange(first_position, first_position + len(ids))
    eps = config["layer_norm_epsilon"]
    x = weights["transformer.wte.weight"][torch.tensor(ids)]
    for layer in range(config["num_hidden_layers"]):
        name = f"transformer.h.{layer}"
        normed = rms_norm(x, weights[f"{name}.ln_1.weight"], eps)
        x = x + attention(config, weights, f"{name}.attn", normed, positions, alpha, stored)
        x = x + mlp(weights, f"{name}.mlp", rms_norm(x, weights[f"{name}.ln_2.weight"], eps))
    return linear(weights, "lm_head", rms_norm(x, weights["transformer.ln_f.weight"], eps))


@torch.no_grad()
def naive_greedy(config: Config, weights: Weights, prompt_ids: Sequence[int], num_tokens: int) -> list[int]:
    """The greedy continuation of a prompt: the whole text is computed again for every token."""
    ids = list(prompt_ids)
    for _ in range(num_tokens):
        ids.append(int(naive_logits(config, weights, ids, prompt_length=len(prompt_ids))[-1].argmax()))
    return ids[len(prompt_ids) :]
