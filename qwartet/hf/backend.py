"""The backend of a model in transformers, which may be moved, cast and trained: it decides anew for every operation.

tensors on a CPU in bf16, no gradient needed      the native library, as select.py chooses it
the same with a gradient, quantised linears       the native library, forward and backward
everything else                                   the references, which are differentiable
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qwartet.kernels import differentiable
from qwartet.kernels.backend import REFERENCE, Backend, FusedLayers, LayerWeights, PreparedWeight
from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.head_norms import HeadNorms
from qwartet.kernels.select import select_backend
from qwartet.models.config import ModelConfig
from qwartet.quant_format.weight import QuantizedWeight

NATIVE_DTYPE = torch.bfloat16


class ChoosingBackend(Backend):
    """Passes each operation to the backend that suits its tensors."""

    def __init__(self, config: ModelConfig) -> None:
        rotary_dim = config.position.rotary_dim
        self.fast = select_backend(torch.device("cpu"), NATIVE_DTYPE, head_dim=config.head_dim, rotary_dim=rotary_dim)
        self.names = self.fast.names
        self.can_fuse = self.fast.can_fuse

    def __deepcopy__(self, memo: dict[int, Any]) -> ChoosingBackend:
        return self  # it holds no weights, and the library's pointers cannot be copied

    def suited_to(self, *tensors: Tensor | None) -> Backend:
        """The fast backend if it supports all of these weights or activations, else the references."""
        given = [tensor for tensor in tensors if tensor is not None]
        needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        return self.fast if all(map(is_native, given)) and not needs_gradient else REFERENCE

    def prepare(self, weight: QuantizedWeight) -> PreparedWeight:
        return self.fast.prepare(weight)

    def quantized_linear(self, x: Tensor, weight: PreparedWeight) -> Tensor:
        """Differentiable in x; `weight` is prepared."""
        if torch.is_grad_enabled() and x.requires_grad:
            return differentiable.quantized_linear(x, weight, self.fast)
        return self.fast.quantized_linear(x, weight)

    def quantized_linear_gradient(self, grad_y: Tensor, weight: PreparedWeight, dtype: torch.dtype) -> Tensor:
        return self.fast.quantized_linear_gradient(grad_y, weight, dtype)

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.suited_to(x, weight, bias).dense_linear(x, weight, bias)

    def head_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.suited_to(x, weight).head_logits(x, weight)

    def loss_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.suited_to(x, weight).loss_logits(x, weight)

    def dense_linear_gradient(self, grad_y: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return self.suited_to(weight).dense_linear_gradient(grad_y, weight, dtype)

    def embed(self, ids: Tensor, table: Tensor) -> Tensor:
        """ids of any shape and integer dtype."""
        chosen = self.suited_to(table)
        if chosen is REFERENCE:
            return chosen.embed(ids, table)
        rows: Tensor = chosen.embed(ids.flatten().int(), table).unflatten(0, ids.shape)
        return rows

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        is_residual = x.dtype == torch.float32 and not (torch.is_grad_enabled() and x.requires_grad)
        chosen = self.suited_to(weight) if is_residual else REFERENCE
        return chosen.rms_norm(x, weight, eps)

    def silu_mul(self, up: Tensor, gate: Tensor) -> Tensor:
        return self.suited_to(up, gate).silu_mul(up, gate)

    def rotate_and_store(
        self,
        qkv: Tensor,
        num_heads: int,
        cos: Tensor,
        sin: Tensor,
        batch: ForwardBatch,
        cache: CacheLayer,
        norms: HeadNorms | None = None,
    ) -> Tensor:
        return self.suited_to(qkv, cache.keys).rotate_and_store(qkv, num_heads, cos, sin, batch, cache, norms)

    def paged_attention(self, query: Tensor, cache: CacheLayer, batch: ForwardBatch) -> Tensor:
        return self.suited_to(query, cache.keys).paged_attention(query, cache, batch)

    def fuse(self, layers: Sequence[LayerWeights], caches: Sequence[CacheLayer]) -> FusedLayers | None:
        """None unless everything is on a CPU and in bf16."""
        dense = [tensor for layer in layers for tensor in _dense_tensors(layer)]
        if not all(map(is_native, dense)):
            return None
        return self.fast.fuse(layers, caches)


def is_native(tensor: Tensor) -> bool:
    """Whether the native library supports a weight or an activation."""
    return tensor.device.type == "cpu" and tensor.dtype == NATIVE_DTYPE


def _dense_tensors(layer: LayerWeights) -> list[Tensor]:
    linears = (layer.qkv, layer.output, layer.up, layer.gate, layer.down)
    dense = [tensor for one in linears if isinstance(one, tuple) for tensor in one if tensor is not None]
    return [layer.attention_norm, layer.mlp_norm, *dense]
