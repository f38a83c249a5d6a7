"""Tensor names: Qwen-1's on disk, the field's terms in the network.

disk                                  network
transformer.wte                       embedding
transformer.h.{i}.ln_1                layers.{i}.attention_norm
transformer.h.{i}.attn.c_attn         layers.{i}.attention.qkv
transformer.h.{i}.attn.c_proj         layers.{i}.attention.output
transformer.h.{i}.ln_2                layers.{i}.mlp_norm
transformer.h.{i}.mlp.w1 / w2         layers.{i}.mlp.up / gate
transformer.h.{i}.mlp.c_proj          layers.{i}.mlp.down
transformer.ln_f                      norm
lm_head                               lm_head
"""

from __future__ import annotations

import re

_OUTSIDE = {"embedding": "transformer.wte", "norm": "transformer.ln_f", "lm_head": "lm_head"}
_INSIDE = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.w1",
    "mlp.gate": "mlp.w2",
    "mlp.down": "mlp.c_proj",
}
LINEARS = ("attention.qkv", "attention.output", "mlp.up", "mlp.gate", "mlp.down")
"""The five linears of a block, in the order in which GPTQ quantises them."""

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_DISK_LAYER = re.compile(r"transformer\.h\.(\d{1,9})\.", re.ASCII)
_HARMLESS_EXTRA = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.masked_bias|attn\.bias|attn\.logn_tensor)")


def disk_name(module: str) -> str:
    """Name on disk of a module of the network, e.g. "layers.3.mlp.up" -> "transformer.h.3.mlp.w1"."""
    match = _LAYER.fullmatch(module)
    if match is None:
        return _OUTSIDE[module]
    return f"transformer.h.{match[1]}.{_INSIDE[match[2]]}"


def disk_parameter_name(parameter: str) -> str:
    """The same for a parameter: "norm.weight" -> "transformer.ln_f.weight"."""
    module, _, leaf = parameter.rpartition(".")
    return f"{disk_name(module)}.{leaf}"


def module_names(num_layers: int) -> list[str]:
    """All modules that own tensors, in the order of the forward pass."""
    inside = [f"layers.{layer}.{name}" for layer in range(num_layers) for name in _INSIDE]
    return ["embedding", *inside, "norm", "lm_head"]


def layer_of(tensor: str) -> int | None:
    """Layer that a name on disk speaks of: "transformer.h.3.mlp.w1.weight" -> 3; None outside the layers."""
    match = _DISK_LAYER.match(tensor)
    return int(match[1]) if match else None


def is_harmless_extra(name: str) -> bool:
    """Whether this is a buffer that old checkpoints carry and that every engine recomputes."""
    return _HARMLESS_EXTRA.fullmatch(name) is not None
