"""All residual blocks in one native call, where nothing needs to happen in between.

The call takes structures of pointers, built once. Before each call it is checked that the modules and tensors behind
them are still the ones in the network, that nobody hooked in, and that no tensor has moved.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qwartet.kernels.cpu.operations import DenseOrPacked, LayerWeights
from qwartet.kernels.cpu.weights import PackedWeight
from qwartet.kernels.select import Kernels
from qwartet.layers.forward_batch import ForwardBatch
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.linear import Linear, QuantizedLinear
from qwartet.layers.rotary import RotaryTable
from qwartet.layers.weight_stream import WeightStream


def _is_plain(linear: nn.Module) -> bool:
    """Whether this is one of our two linears as it is: not replaced, not wrapped, not left to the reference."""
    return type(linear) is Linear or (type(linear) is QuantizedLinear and isinstance(linear.prepared, PackedWeight))


def _weight(linear: Any) -> DenseOrPacked:
    return linear.prepared if isinstance(linear, QuantizedLinear) else (linear.weight, linear.bias)


class FusedLayers:
    """The blocks of a network, ready for one call; `layers` are modules with the parts of models.qwen.DecoderLayer."""

    def __init__(self, layers: nn.ModuleList, kernels: Kernels, stream: WeightStream | None = None) -> None:
        """Only where `can_fuse` holds. `stream` brings the weights to memory, where they are not all there."""
        self._kernels = kernels
        self._stream = stream
        modules = [module for layer in layers for module in layer.modules()]
        self._hooks = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        # Where each module and parameter is registered, and what was found there.
        self._places = [
            (registry, name, thing)
            for module in modules
            for registry in (module._modules, module._parameters)
            for name, thing in registry.items()
        ]
        self._weights = [
            LayerWeights(
                attention_norm=layer.attention_norm.weight,
                mlp_norm=layer.mlp_norm.weight,
                eps=layer.attention_norm.eps,
                num_heads=layer.attention.num_heads,
                qkv=_weight(layer.attention.qkv),
                output=_weight(layer.attention.output),
                up=_weight(layer.mlp.up),
                gate=_weight(layer.mlp.gate),
                down=_weight(layer.mlp.down),
            )
            for layer in layers
        ]

    @staticmethod
    def can_fuse(layers: nn.ModuleList, kernels: Kernels) -> bool:
        """Whether the kernels have the call and the blocks hold nothing but our own parts."""
        if kernels.decoder_layers is None:
            return False
        linears = (
            (layer.attention.qkv, layer.attention.output, layer.mlp.up, layer.mlp.gate, layer.mlp.down)
            for layer in layers
        )
        return all(_is_plain(linear) for linears_of_layer in linears for linear in linears_of_layer)

    def is_current(self) -> bool:
        """Whether what was read when this was built is still there and lies where it lay."""
        if any(registry.get(name) is not thing for registry, name, thing in self._places):
            return False
        return not any(weights.has_moved() for weights in self._weights)

    def may_run(self, batch: ForwardBatch) -> bool:
        """Whether one call gives what the modules would: no gradients, no adapters, no hooks."""
        return batch.adapter_index is None and not torch.is_grad_enabled() and not any(self._hooks)

    def __call__(self, x: Tensor, rotary: RotaryTable, batch: ForwardBatch, cache: KVCache) -> Tensor:
        """x [T, C] -> the same memory with what the blocks make of it; the cache is written."""
        if self._stream is None:
            return self._run(x, 0, len(self._weights), rotary, batch, cache)
        for first, end in self._stream.spans():
            self._stream.before(first)
            x = self._run(x, first, end, rotary, batch, cache)
            self._stream.after(first)
        return x

    def _run(self, x: Tensor, first: int, end: int, rotary: RotaryTable, batch: ForwardBatch, cache: KVCache) -> Tensor:
        assert self._kernels.decoder_layers is not None, "ask can_fuse first"
        return self._kernels.decoder_layers(
            x,
            self._weights[first:end],
            cache.native_layers[first:end],
            rotary.cos,
            rotary.sin,
            batch.rope_index,
            batch.query_scale,
            batch.slot_mapping,
            batch.block_table,
            batch.seq_lens,
            batch.cu_seqlens,
        )
