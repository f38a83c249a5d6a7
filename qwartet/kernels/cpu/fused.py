"""All residual blocks in one native call: pointer structures, built once for a network and its KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, byref, c_void_p, sizeof
from typing import Any

import torch
from torch import Tensor

from qwartet.kernels.backend import LayerWeights
from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.low_rank import NativeAdapters, layer_structure
from qwartet.kernels.cpu.structures import (
    batch_structure,
    cache_structure,
    check,
    dense_structure,
    norms_structure,
    pointer,
    rotation_structure,
)
from qwartet.kernels.cpu.weights import PackedWeight
from qwartet.kernels.forward_batch import ForwardBatch

_LINEARS = ("qkv", "output", "up", "gate", "down")


class NativeLayers:
    """Blocks and the caches of their layers; keeps the tensors that it points to alive."""

    def __init__(
        self,
        library: native.NativeLibrary,
        layers: Sequence[LayerWeights],
        caches: Sequence[CacheLayer],
        low: int,
    ) -> None:
        """Only for packed and dense linears; see `of`."""
        self._library, self._low = library, low
        self._layers = [_Layer(layer, cache.head_dim) for layer, cache in zip(layers, caches, strict=True)]
        self._held = list(caches)
        self._caches = [cache_structure(cache) for cache in caches]
        self._held_adapters = [layer.adapters for layer in layers]
        self._adapters = (native.LayerAdapters * len(layers))(*map(layer_structure, self._held_adapters))
        found = (one for every in self._held_adapters for one in every if isinstance(one, NativeAdapters))
        sizes = {len(one.structures) for one in found}
        assert len(sizes) <= 1, "every linear has the adapters of the others, or none"
        self._num_adapters = max(sizes, default=0)

    @classmethod
    def of(
        cls,
        library: native.NativeLibrary,
        layers: Sequence[LayerWeights],
        caches: Sequence[CacheLayer],
        low: int,
    ) -> NativeLayers | None:
        """None if a linear is neither packed nor dense."""
        linears = (getattr(layer, name) for layer in layers for name in _LINEARS)
        fits = all(isinstance(linear, PackedWeight | tuple) for linear in linears)
        return cls(library, layers, caches, low) if fits else None

    def is_current(self) -> bool:
        return not any(layer.has_moved() for layer in self._layers)

    def run(self, x: Tensor, first: int, end: int, cos: Tensor, sin: Tensor, batch: ForwardBatch) -> Tensor:
        num_tokens, hidden_size = x.shape
        check(x, num_tokens, hidden_size, dtype=torch.float32)
        rotation, requests = rotation_structure(cos, sin, batch), batch_structure(batch)
        layers = (c_void_p * (end - first))(*(addressof(layer.structure) for layer in self._layers[first:end]))
        caches = (c_void_p * (end - first))(*(addressof(cache) for cache in self._caches[first:end]))
        self._library.call(
            "qw_decoder_layers", layers, caches, end - first, pointer(x), num_tokens, hidden_size, byref(rotation),
            cos.shape[0], byref(requests), self._low, *self._adapter_arguments(first, batch.adapter_index, num_tokens),
        )  # fmt: skip
        return x

    def _adapter_arguments(self, first: int, index: Tensor | None, num_tokens: int) -> tuple[Any, int, int | None]:
        if index is None:
            return None, 0, None
        check(index, num_tokens, dtype=torch.int32)
        return byref(self._adapters, first * sizeof(native.LayerAdapters)), self._num_adapters, pointer(index)


class _Layer:
    """One block: its structure, and the tensors that keep the data of the structure alive."""

    def __init__(self, weights: LayerWeights, head_dim: int) -> None:
        self._weights = weights
        hidden_size = weights.attention_norm.shape[0]
        check(weights.attention_norm, hidden_size)
        check(weights.mlp_norm, hidden_size)
        linears = {name: _structure(getattr(weights, name)) for name in _LINEARS}
        up = linears["up"]
        self.structure = native.Layer(
            attention_norm=pointer(weights.attention_norm), mlp_norm=pointer(weights.mlp_norm), eps=weights.eps,
            head_norms=norms_structure(weights.head_norms, head_dim),
            num_heads=weights.num_heads, hidden_size=hidden_size,
            intermediate_size=up.packed.num_outputs if up.is_packed else up.dense.num_outputs, **linears,
        )  # fmt: skip

    def has_moved(self) -> bool:
        """Whether a tensor has moved; packed weights never do."""
        weights, structure = self._weights, self.structure
        if (pointer(weights.attention_norm), pointer(weights.mlp_norm)) != (
            structure.attention_norm,
            structure.mlp_norm,
        ):
            return True
        heads = weights.head_norms
        if heads is not None:
            places = structure.head_norms.query, structure.head_norms.key
            if (pointer(heads.query), pointer(heads.key)) != places:
                return True
        for name in _LINEARS:
            if isinstance(linear := getattr(weights, name), tuple):
                dense = getattr(structure, name).dense
                if (pointer(linear[0]), pointer(linear[1])) != (dense.rows, dense.bias):
                    return True
        return False


def _structure(linear: Any) -> native.Linear:
    return linear.structure if isinstance(linear, PackedWeight) else dense_structure(*linear)
