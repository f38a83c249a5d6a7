"""The layouts that later engines read, for a network of first-generation Qwen.

Qwen2 (models/qwen2.py) has biases on q, k and v only; Llama, with attention_bias and mlp_bias, on all linears. Their
names are the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from qwartet.checkpoint.layout import Layout
from qwartet.models import qwen2
from qwartet.models.config import ModelConfig

LaterFamily = Literal["qwen2", "llama"]
ARCHITECTURES: dict[LaterFamily, str] = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}


def later_layout(config: ModelConfig, family: LaterFamily) -> Layout:
    """The modules in the order of the forward pass, as a checkpoint of that family stores them."""
    layout = qwen2.layout(config)
    if family == "qwen2":
        return layout
    modules = (replace(one, needs_bias=True, allows_bias=True) if one.kind == "linear" else one for one in layout)
    return replace(layout, modules=tuple(modules))
