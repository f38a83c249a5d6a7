"""The layouts that later engines read, for a network of first-generation Qwen.

network                       on disk
embedding                     model.embed_tokens
layers.{i}.attention_norm     model.layers.{i}.input_layernorm
layers.{i}.attention.qkv      model.layers.{i}.self_attn.q_proj, k_proj, v_proj
layers.{i}.attention.output   model.layers.{i}.self_attn.o_proj
layers.{i}.mlp_norm           model.layers.{i}.post_attention_layernorm
layers.{i}.mlp.up / gate      model.layers.{i}.mlp.up_proj / gate_proj
layers.{i}.mlp.down           model.layers.{i}.mlp.down_proj
norm                          model.norm
lm_head                       lm_head

Qwen2 has biases on q, k and v only; Llama, with attention_bias and mlp_bias, on all linears. The rest is the same.
"""

from __future__ import annotations

import re
from typing import Literal

from qwartet.checkpoint.layout import Kind, Layout, ModuleSpec
from qwartet.models.config import ModelConfig

LaterFamily = Literal["qwen2", "llama"]

_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.", re.ASCII)
_HARMLESS_EXTRA = re.compile(r"(.*\.)?rotary_emb\.inv_freq")


def later_layout(config: ModelConfig, family: LaterFamily) -> Layout:
    """The modules in the order of the forward pass, as a checkpoint of that family stores them."""
    hidden, mlp, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    attention, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    has_all_biases = family == "llama"

    def module(name: str, kind: Kind, parts: list[tuple[str, int]], columns: int | None, fields: str) -> ModuleSpec:
        rows = sum(rows for _, rows in parts)
        needs_bias = kind == "linear" and (has_all_biases or name.endswith("attention.qkv"))
        shape = (rows,) if columns is None else (rows, columns)
        return ModuleSpec(name, kind, shape, tuple(parts), fields, needs_bias)

    def block(index: int) -> list[ModuleSpec]:
        own, disk = f"layers.{index}.", f"model.layers.{index}."
        inner = disk + "self_attn."
        qkv = [(inner + "q_proj", attention), (inner + "k_proj", kv), (inner + "v_proj", kv)]
        sizes = "hidden_size, intermediate_size"
        return [
            module(own + "attention_norm", "norm", [(disk + "input_layernorm", hidden)], None, "hidden_size"),
            module(own + "attention.qkv", "linear", qkv, hidden, "hidden_size"),
            module(own + "attention.output", "linear", [(inner + "o_proj", hidden)], attention, "hidden_size"),
            module(own + "mlp_norm", "norm", [(disk + "post_attention_layernorm", hidden)], None, "hidden_size"),
            module(own + "mlp.up", "linear", [(disk + "mlp.up_proj", mlp)], hidden, sizes),
            module(own + "mlp.gate", "linear", [(disk + "mlp.gate_proj", mlp)], hidden, sizes),
            module(own + "mlp.down", "linear", [(disk + "mlp.down_proj", hidden)], mlp, sizes),
        ]

    modules = [
        module("embedding", "embedding", [("model.embed_tokens", vocab)], hidden, "vocab_size, hidden_size"),
        *(spec for index in range(config.num_layers) for spec in block(index)),
        module("norm", "norm", [("model.norm", hidden)], None, "hidden_size"),
        module("lm_head", "head", [("lm_head", vocab)], hidden, "vocab_size, hidden_size"),
    ]
    return Layout(tuple(modules), config.num_layers, _LAYER, _HARMLESS_EXTRA)
