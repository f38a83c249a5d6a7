"""The first-generation Qwen network, in one file.

    h = x + attention(norm(x));  x' = h + mlp(norm(h))          pre-norm residual blocks
    attention: q, k, v = qkv(x) with bias; rotary; causal; multi-head, head_dim 128
    mlp:       down(up(x) * silu(gate(x)))                       SwiGLU; Qwen-1 calls up w1 and gate w2
    logits = lm_head(norm(x))                                    untied

`forward` is pure and differentiable: with `cache=None` it attends densely over the batch (training,
calibration, the oracle); with a cache it also stores the new keys and values there. Shape letters:
T tokens of all requests, C hidden_size, H heads, D head_dim, V vocab_size, R rows of logits.

Source: the published modeling_qwen.py; Bai et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwartet.layers.attention import attend
from qwartet.layers.forward_batch import ForwardBatch
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.linear import Linear
from qwartet.layers.rms_norm import RMSNorm
from qwartet.layers.rotary import RotaryTable, apply_rotary
from qwartet.models.config import ModelConfig


class Attention(nn.Module):
    """Self-attention of one block."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.widths = [n * config.head_dim for n in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]
        self.qkv = Linear(config.hidden_size, sum(self.widths), bias=True)
        self.output = Linear(config.num_heads * config.head_dim, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, batch: ForwardBatch, cache: KVCache | None) -> Tensor:
        parts = self.qkv(x).split(self.widths, dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)  # [T, H, D]
        query, key = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
        if batch.query_scale is not None:
            query = query * batch.query_scale.to(query.dtype)[:, None, None]
        return self.output(attend(self.layer, query, key, value, batch, cache).flatten(1))  # [T, C]


class MLP(nn.Module):
    """SwiGLU feed-forward of one block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size)
        self.gate = Linear(config.hidden_size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x) * F.silu(self.gate(x)))


class DecoderLayer(nn.Module):
    """One residual block."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, batch: ForwardBatch, cache: KVCache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, batch, cache)
        return x + self.mlp(self.mlp_norm(x))


class QwenModel(nn.Module):
    """Token ids to logits. Parameters are left uninitialised: load a checkpoint or call `initialize`.

    Nothing is computed but the rotary table, unless it is given: on the meta device torch would import
    half a second of modules for that.
    """

    def __init__(self, config: ModelConfig, rotary: RotaryTable | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size), freeze=False)
        self.rotary = RotaryTable(config.position) if rotary is None else rotary
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def forward(self, batch: ForwardBatch, cache: KVCache | None = None) -> Tensor:
        """Logits [R, V] of the tokens in batch.logits_index (all T when that is None), in the model's dtype."""
        x = self.embedding(batch.input_ids)  # [T, C]
        cos, sin = self.rotary(batch.rope_index)
        for layer in self.layers:
            x = layer(x, cos, sin, batch, cache)
        if batch.logits_index is not None:
            x = x[batch.logits_index]  # [R, C]
        return self.lm_head(self.norm(x))

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def initialize(self, generator: torch.Generator, initializer_range: float = 0.02) -> None:
        """The published initialisation: N(0, 0.02), output projections / sqrt(2 L), zero biases, unit norms."""
        output_std = initializer_range / math.sqrt(2 * self.config.num_layers)
        init: dict[str, Callable[[Tensor], Tensor]] = {
            "bias": nn.init.zeros_,
            "norm.weight": nn.init.ones_,
            "output.weight": lambda p: p.normal_(0.0, output_std, generator=generator),
            "down.weight": lambda p: p.normal_(0.0, output_std, generator=generator),
            "weight": lambda p: p.normal_(0.0, initializer_range, generator=generator),
        }
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                next(fill for suffix, fill in init.items() if name.endswith(suffix))(parameter)
