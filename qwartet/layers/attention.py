"""Multi-head attention around the attention kernels: projections, rotation, cache."""

from __future__ import annotations

from torch import Tensor

from qwartet.kernels.attention_reference import dense_attention, paged_attention
from qwartet.layers.forward_batch import ForwardBatch
from qwartet.layers.kv_cache import KVCache


def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, batch: ForwardBatch, cache: KVCache | None) -> Tensor:
    """Attention of one layer: dense without a cache, else over the cache after writing the new tokens to it.

    query [T, H, D], key and value [T, H_kv, D] -> [T, H, D].
    """
    if cache is None:
        return dense_attention(query, key, value, batch.cu_seqlens)
    assert batch.block_table is not None and batch.slot_mapping is not None, "a batch for a cache needs its blocks"
    cache.write(layer, key, value, batch.slot_mapping)
    return paged_attention(
        query, cache.keys[layer], cache.values[layer], batch.block_table, batch.seq_lens, batch.cu_seqlens
    )
