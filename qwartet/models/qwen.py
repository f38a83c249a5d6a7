"""The network of all dense Qwen models, in one file; the families (qwen1.py, qwen2.py, qwen3.py) set the options.

    h = x + attention(norm(x));  x' = h + mlp(norm(h))          pre-norm residual blocks
    attention: q, k, v = qkv(x); rotary; causal; grouped queries, with one group per head in Qwen-1
    mlp:       down(up(x) * silu(gate(x)))                       SwiGLU; Qwen-1 calls up w1 and gate w2
    logits = lm_head(norm(x))

                 qkv bias   norm of q and k heads   lm_head
    Qwen-1       yes        no                      of its own
    Qwen2, 2.5   yes        no                      small sizes: the embedding's weights
    Qwen3        no         before rotary           small sizes: the embedding's weights

The residual stream x is fp32 whatever the dtype of the weights: it is small, and fp32 avoids rounding after every
block.

`forward` is pure and differentiable: with `cache=None` it attends densely over the batch (training,
calibration, the oracle); with a cache it also stores the new keys and values there. Shape letters:
T tokens of all requests, C hidden_size, H heads, D head_dim, V vocab_size, R rows of logits.

Sources: the published modeling_qwen.py, and Bai et al. 2023; transformers' Qwen2ForCausalLM and Qwen3ForCausalLM.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qwartet.kernels.backend import REFERENCE, Backend
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.head_norms import HeadNorms
from qwartet.layers.attention import attend
from qwartet.layers.embedding import Embedding
from qwartet.layers.head import Head
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.linear import Linear, apply
from qwartet.layers.parallel import SINGLE, ParallelContext
from qwartet.layers.rms_norm import RMSNorm
from qwartet.layers.rotary import RotaryTable
from qwartet.models.config import ModelConfig


class Attention(nn.Module):
    """Self-attention of one block."""

    def __init__(self, config: ModelConfig, layer: int, backend: Backend, parallel: ParallelContext) -> None:
        super().__init__()
        self.layer, self.backend, self.parallel = layer, backend, parallel
        self.num_heads, self.head_dim = parallel.share(config.num_heads, "heads"), config.head_dim
        num_kv_heads = parallel.share(config.num_kv_heads, "KV heads")
        width = (self.num_heads + 2 * num_kv_heads) * config.head_dim
        self.qkv = Linear(config.hidden_size, width, bias=config.qkv_bias, backend=backend)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps, backend) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps, backend) if config.qk_norm else None
        bias = config.output_bias
        self.output = Linear(self.num_heads * config.head_dim, config.hidden_size, bias=bias, backend=backend)

    @property
    def head_norms(self) -> HeadNorms | None:
        """The weights that norm the heads of queries and keys, if the family has them."""
        if self.q_norm is None or self.k_norm is None:
            return None
        return HeadNorms(self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)

    def heads(self, x: Tensor, rotary: RotaryTable, batch: ForwardBatch, cache: KVCache | None) -> Tensor:
        """What the output projection takes: x [T, C] -> [T, H D]."""
        qkv = apply(self.qkv, x, batch.adapter_index)  # [T, (H + 2 H_kv) D]
        norms = self.head_norms
        return attend(self.backend, self.layer, self.num_heads, self.head_dim, qkv, rotary, batch, cache, norms)

    def forward(self, x: Tensor, rotary: RotaryTable, batch: ForwardBatch, cache: KVCache | None) -> Tensor:
        heads = self.heads(x, rotary, batch, cache)
        return self.parallel.all_reduce(apply(self.output, heads, batch.adapter_index))  # [T, C]


class MLP(nn.Module):
    """SwiGLU feed-forward of one block."""

    def __init__(self, config: ModelConfig, backend: Backend, parallel: ParallelContext) -> None:
        super().__init__()
        self.backend, self.parallel = backend, parallel
        width = parallel.share(config.intermediate_size, "columns of the MLP")
        self.up = Linear(config.hidden_size, width, backend=backend)
        self.gate = Linear(config.hidden_size, width, backend=backend)
        self.down = Linear(width, config.hidden_size, backend=backend)

    def product(self, x: Tensor, adapter_index: Tensor | None = None) -> Tensor:
        """What the down projection takes: x [T, C] -> [T, width]."""
        up, gate = apply(self.up, x, adapter_index), apply(self.gate, x, adapter_index)
        return self.backend.silu_mul(up, gate)

    def forward(self, x: Tensor, adapter_index: Tensor | None = None) -> Tensor:
        return self.parallel.all_reduce(apply(self.down, self.product(x, adapter_index), adapter_index))


class DecoderLayer(nn.Module):
    """One residual block; derived classes may derive its parts too."""

    attention_class: type[Attention] = Attention
    mlp_class: type[MLP] = MLP

    def __init__(
        self, config: ModelConfig, layer: int, backend: Backend = REFERENCE, parallel: ParallelContext = SINGLE
    ) -> None:
        super().__init__()
        self.backend = backend
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, backend)
        self.attention = self.attention_class(config, layer, backend, parallel)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, backend)
        self.mlp = self.mlp_class(config, backend, parallel)

    def forward(self, x: Tensor, rotary: RotaryTable, batch: ForwardBatch, cache: KVCache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, batch, cache)
        return x + self.mlp(self.mlp_norm(x), batch.adapter_index)


class QwenModel(nn.Module):
    """Token ids to logits. Parameters are left uninitialised: load a checkpoint or call `initialize`.

    Only the rotary table is computed, unless it is passed in: on the meta device torch would spend half a second
    importing modules for it. The default backend is the references, which are differentiable.
    """

    def __init__(
        self,
        config: ModelConfig,
        rotary: RotaryTable | None = None,
        backend: Backend = REFERENCE,
        parallel: ParallelContext = SINGLE,
    ) -> None:
        super().__init__()
        self.config = config
        self.backend, self.parallel = backend, parallel
        self.embedding = Embedding(config.vocab_size, config.hidden_size, backend)
        self.rotary = RotaryTable(config.position) if rotary is None else rotary
        blocks = (DecoderLayer(config, layer, backend, parallel) for layer in range(config.num_layers))
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, backend)
        self.lm_head = Head(config.hidden_size, config.vocab_size, backend)
        if config.tied_embeddings:
            self.lm_head.weight = self.embedding.weight

    def forward(self, batch: ForwardBatch, cache: KVCache | None = None) -> Tensor:
        """Logits [R, V] of the tokens in batch.logits_index (all T when that is None)."""
        return self.lm_head(self.hidden(batch, cache))

    def hidden(self, batch: ForwardBatch, cache: KVCache | None = None) -> Tensor:
        """The head's input: the normed hidden states [R, C] of the same tokens."""
        return self.blocks(self.embedding(batch.input_ids), batch, cache)

    def blocks(self, x: Tensor, batch: ForwardBatch, cache: KVCache | None = None) -> Tensor:
        """The same from embedded tokens x [T, C]."""
        for layer in self.layers:
            x = layer(x, self.rotary, batch, cache)
        return self.normed(x, batch)

    def normed(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        """The rows of x [T, C] whose logits are needed, normed for the head -> [R, C]."""
        return self.norm(x if batch.logits_index is None else x[batch.logits_index])

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
