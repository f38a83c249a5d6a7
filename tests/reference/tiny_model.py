"""A model small enough to be run a thousand times, both as the package's network and as the oracle's dict of tensors.

Its training length is short, so that NTK and LogN begin within a few tokens. tests/tiny_checkpoint.py writes a whole
checkpoint to disk; this one stays in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwartet.models.families import parse_config
from qwartet.models.qwen import QwenModel
from tests.published_names import disk_parameter_name

CONFIG: dict[str, Any] = {
    "model_type": "qwen",
    "vocab_size": 80,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_channels": 16,
    "intermediate_size": 96,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 10000,
    "seq_length": 24,
    "max_position_embeddings": 96,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
}
WEIGHT_STD = 0.3  # large enough that the best logits stand far apart


def tiny_weights(seed: int = 0, **changes: Any) -> dict[str, Tensor]:
    """Random fp32 tensors by their names on disk, for CONFIG with some keys changed."""
    generator = torch.Generator().manual_seed(seed)
    network = QwenModel(parse_config(CONFIG | changes, Path("config.json")))
    weights = {}
    for name, parameter in network.named_parameters():
        noise = WEIGHT_STD * torch.randn(parameter.shape, generator=generator)
        weights[disk_parameter_name(name)] = 1 + noise if name.endswith("norm.weight") else noise
    return weights


def tiny_network(weights: dict[str, Tensor], **changes: Any) -> QwenModel:
    """The package's network with copies of these weights."""
    network = QwenModel(parse_config(CONFIG | changes, Path("config.json")))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[disk_parameter_name(name)])
    return network.eval()
