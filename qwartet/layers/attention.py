"""From projected queries, keys and values to the output of the heads: rotation, cache, attention kernels."""

from __future__ import annotations

from torch import Tensor

from qwartet.kernels.backend import Backend
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.head_norms import HeadNorms
from qwartet.kernels.reference.attention import dense_attention
from qwartet.kernels.reference.rotary import rotated_heads
from qwartet.layers.kv_cache import KVCache
from qwartet.layers.rotary import RotaryTable


def attend(
    backend: Backend,
    layer: int,
    num_heads: int,
    head_dim: int,
    qkv: Tensor,
    rotary: RotaryTable,
    batch: ForwardBatch,
    cache: KVCache | None,
    norms: HeadNorms | None = None,
) -> Tensor:
    """Attention of one layer: dense and differentiable without a cache, else over the cache after writing to it.

    qkv [T, (H + 2 H_kv) D] -> [T, H D]. `norms` of the heads come before the rotation.
    """
    if cache is None:
        cos, sin = rotary(batch.rope_index)
        query, key, value = rotated_heads(qkv, num_heads, head_dim, cos, sin, batch.query_scale, norms)
        return dense_attention(query, key, value, batch.cu_seqlens).flatten(1)
    store = cache.layers[layer]
    query = backend.rotate_and_store(qkv, num_heads, rotary.cos, rotary.sin, batch, store, norms)
    return backend.paged_attention(query, store, batch).flatten(1)
