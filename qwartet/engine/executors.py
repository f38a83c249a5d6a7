"""How does a step run through the network: module by module, or all blocks in one call of the backend?

    eager     the network as it is written: any backend, hooks, modules of others beside or around the linears
    fused     what `Backend.fuse` made of the blocks; bit-identical to the modules

The runner calls `choose_executor` once; a fused executor detects when a step needs the modules.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from qwartet.kernels.backend import FusedLayers, LayerWeights, LinearWeight
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.low_rank import PreparedAdapters
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.linear import Linear, QuantizedLinear
from qwartet.layers.weight_stream import StreamedLayers
from qwartet.models.qwen import QwenModel


class Executor(Protocol):
    """Runs steps over one KV cache."""

    def run(self, batch: ForwardBatch, x: Tensor | None = None) -> Tensor:
        """Hidden states [R, C], ready for the head, of the tokens in batch.logits_index.

        x [T, C] fp32 are their embeddings, where these do not come from batch.input_ids; it may be overwritten.
        """
        ...


class EagerExecutor:
    """Calls the modules."""

    def __init__(self, model: QwenModel, cache: KVCache) -> None:
        self._model, self._cache = model, cache

    def run(self, batch: ForwardBatch, x: Tensor | None = None) -> Tensor:
        x = self._model.embedding(batch.input_ids) if x is None else x
        return self._model.blocks(x, batch, self._cache)


class FusedExecutor:
    """Calls the backend with all blocks at once.

    Before each call it checks that the modules and tensors that it was built from are still those of the network, that
    there are no hooks, and that no tensor has moved.
    """

    def __init__(self, model: QwenModel, cache: KVCache) -> None:
        """Only for a network that `can_fuse`."""
        self._model, self._cache = model, cache
        self._eager = EagerExecutor(model, cache)
        self._build()

    def _build(self) -> None:
        layers = self._model.layers
        modules = [module for layer in layers.children() for module in layer.modules()]
        self._hooks = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        # Where each module and parameter is registered, and what was found there.
        self._places = [
            (registry, name, thing)
            for module in modules
            for registry in (module._modules, module._parameters)
            for name, thing in registry.items()
        ]
        self._fused: FusedLayers | None = None
        if all(map(_is_plain, layers.children())):
            weights = [_weights(layer) for layer in layers.children()]
            self._fused = self._model.backend.fuse(weights, self._cache.layers)

    def _is_current(self) -> bool:
        if any(registry.get(name) is not thing for registry, name, thing in self._places):
            return False
        return self._fused is None or self._fused.is_current()

    def run(self, batch: ForwardBatch, x: Tensor | None = None) -> Tensor:
        if not self._is_current():
            self._build()
        if self._fused is None or any(self._hooks):
            return self._eager.run(batch, x)
        model = self._model
        x = model.embedding(batch.input_ids) if x is None else x
        cos, sin = model.rotary.cos, model.rotary.sin
        stream = model.layers.stream if isinstance(model.layers, StreamedLayers) else None
        for first, end in [(0, len(model.layers))] if stream is None else stream.spans():
            if stream is not None:
                stream.before(first)
            x = self._fused.run(x, first, end, cos, sin, batch)
            if stream is not None:
                stream.after(first)
        return model.normed(x, batch)


def choose_executor(model: QwenModel, cache: KVCache) -> Executor:
    """The fastest executor for a network and its cache."""
    is_whole = model.parallel.world_size == 1  # ranks sum behind output and down: no call may span these
    return FusedExecutor(model, cache) if model.backend.can_fuse and is_whole else EagerExecutor(model, cache)


def _linears(layer: Any) -> tuple[nn.Module, ...]:
    attention, mlp = layer.attention, layer.mlp
    return attention.qkv, attention.output, mlp.up, mlp.gate, mlp.down


def _is_plain(layer: nn.Module) -> bool:
    """Whether the linears are our own, neither replaced nor wrapped."""
    return all(isinstance(linear, Linear | QuantizedLinear) for linear in _linears(layer))


def _weights(layer: Any) -> LayerWeights:
    linears = _linears(layer)
    qkv, output, up, gate, down = map(_weight, linears)
    return LayerWeights(
        layer.attention_norm.weight,
        layer.mlp_norm.weight,
        layer.attention_norm.eps,
        layer.attention.num_heads,
        qkv,
        output,
        up,
        gate,
        down,
        tuple(_adapters(linear) for linear in linears),
        layer.attention.head_norms,
    )


def _weight(linear: Any) -> LinearWeight:
    return linear.prepared if isinstance(linear, QuantizedLinear) else (linear.weight, linear.bias)


def _adapters(linear: Any) -> PreparedAdapters | None:
    return None if linear.adapters is None else linear.adapters.prepared
