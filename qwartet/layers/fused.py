"""A whole residual block in one call, where the kernels have one and nothing needs to happen in between."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from qwartet.kernels.cpu import LayerWeights
from qwartet.kernels.cpu_weights import PackedWeight
from qwartet.kernels.select import Kernels
from qwartet.layers.forward_batch import ForwardBatch
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.linear import Linear, QuantizedLinear
from qwartet.layers.rms_norm import RMSNorm
from qwartet.layers.rotary import RotaryTable


class _Attention(Protocol):
    layer: int
    num_heads: int
    qkv: nn.Module
    output: nn.Module


class _MLP(Protocol):
    up: nn.Module
    gate: nn.Module
    down: nn.Module


class Block(Protocol):
    """What a residual block must hold to be computed in one call."""

    kernels: Kernels
    attention_norm: RMSNorm
    attention: _Attention
    mlp_norm: RMSNorm
    mlp: _MLP


def _linears(block: Block) -> list[nn.Module]:
    return [block.attention.qkv, block.attention.output, block.mlp.up, block.mlp.gate, block.mlp.down]


def _is_plain(linear: nn.Module) -> bool:
    """Whether this is one of our two linears as it is: not replaced, wrapped, hooked, or left to the reference."""
    if linear._forward_hooks or linear._forward_pre_hooks:
        return False
    if type(linear) is QuantizedLinear:
        return isinstance(linear.prepared, PackedWeight)
    return type(linear) is Linear


def can_fuse(block: Block, batch: ForwardBatch) -> bool:
    """Whether one call gives what the operations one by one would: no gradients, adapters, hooks or foreign layers."""
    if block.kernels.decoder_layer is None or batch.adapter_index is not None or torch.is_grad_enabled():
        return False
    return all(map(_is_plain, _linears(block)))


def _weight(linear: nn.Module) -> PackedWeight | tuple[Tensor, Tensor | None]:
    return linear.prepared if isinstance(linear, QuantizedLinear) else (linear.weight, linear.bias)


def fused_layer(block: Block, x: Tensor, rotary: RotaryTable, batch: ForwardBatch, cache: KVCache) -> Tensor:
    """x [T, C] -> [T, C], the cache written; `can_fuse` must hold."""
    assert block.kernels.decoder_layer is not None, "ask can_fuse first"
    qkv, output, up, gate, down = map(_weight, _linears(block))
    weights = LayerWeights(
        attention_norm=block.attention_norm.weight,
        mlp_norm=block.mlp_norm.weight,
        eps=block.attention_norm.eps,
        num_heads=block.attention.num_heads,
        qkv=qkv,
        output=output,
        up=up,
        gate=gate,
        down=down,
    )
    return block.kernels.decoder_layer(
        x,
        weights,
        rotary.cos,
        rotary.sin,
        batch.rope_index,
        batch.query_scale,
        batch.slot_mapping,
        cache.layer(block.attention.layer),
        batch.block_table,
        batch.seq_lens,
        batch.cu_seqlens,
    )
