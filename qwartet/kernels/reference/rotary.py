"""From a projection to the heads of attention: reference norms of heads, rotary embedding and LogN.

Qwen3 norms every query and key head first. Then (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) for the two halves of
the rotated part of a head (Su et al. 2021); the queries are then multiplied by their LogN factor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.head_norms import HeadNorms
from qwartet.kernels.reference.elementwise import rms_norm


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates heads x [T, H, D]: computed in fp32 and rounded back to x's dtype, as the original does."""
    half = cos.shape[-1]
    x1, x2, rest = x.float().split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest], dim=-1).to(x.dtype)


def rotated_heads(
    qkv: Tensor,
    num_heads: int,
    head_dim: int,
    cos: Tensor,
    sin: Tensor,
    query_scale: Tensor | None,
    norms: HeadNorms | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [T, (H + 2 H_kv) D] -> query [T, H, D], key and value [T, H_kv, D]; cos and sin [T, 1, rotary_dim / 2]."""
    num_kv_heads = (qkv.shape[-1] // head_dim - num_heads) // 2
    query, key, value = qkv.unflatten(-1, (-1, head_dim)).split([num_heads, num_kv_heads, num_kv_heads], dim=-2)
    if norms is not None:
        query, key = rms_norm(query, norms.query, norms.eps), rms_norm(key, norms.key, norms.eps)
    query, key = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
    if query_scale is not None:
        query = query * query_scale.to(query.dtype)[:, None, None]
    return query, key, value


def rotate_and_store(
    qkv: Tensor,
    num_heads: int,
    cos: Tensor,
    sin: Tensor,
    batch: ForwardBatch,
    cache: CacheLayer,
    norms: HeadNorms | None = None,
) -> Tensor:
    """Norms, rotates, writes keys and values to the cache, and returns the queries [T, H, D].

    cos and sin are the full tables [rows, rotary_dim / 2] fp32; batch.rope_index selects rows.
    """
    assert batch.slot_mapping is not None, "a batch for a cache needs its slots"
    rows = cos[batch.rope_index].unsqueeze(1), sin[batch.rope_index].unsqueeze(1)
    query, key, value = rotated_heads(qkv, num_heads, cache.head_dim, *rows, batch.query_scale, norms)
    cache.store(key, value, batch.slot_mapping)
    return query
