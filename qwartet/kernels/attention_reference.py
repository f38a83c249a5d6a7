"""Causal attention by the book: softmax(q k^T / sqrt(d)) v, one request at a time.

Slow and obviously right; every fast attention kernel is compared with these two functions. A query that
is the i-th of n new tokens of a request with L keys sees the first L - n + i + 1 of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of the last n positions; query [n, H, D], key and value [L, H_kv, D] -> [n, H, D]."""
    num_new, num_keys = query.shape[0], key.shape[0]
    groups = query.shape[1] // key.shape[1]
    q = query.transpose(0, 1)  # [H, n, D]
    k = key.transpose(0, 1).repeat_interleave(groups, dim=0) if groups > 1 else key.transpose(0, 1)
    v = value.transpose(0, 1).repeat_interleave(groups, dim=0) if groups > 1 else value.transpose(0, 1)
    if num_new == num_keys:
        out = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    elif num_new == 1:
        out = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    else:
        last_seen = torch.arange(num_keys - num_new, num_keys, device=q.device)
        mask = torch.arange(num_keys, device=q.device) <= last_seen[:, None]  # [n, L]
        out = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
    return out.transpose(0, 1)


def dense_attention(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Attention without a cache: request b owns rows cu_seqlens[b] : cu_seqlens[b + 1].

    query [T, H, D], key and value [T, H_kv, D] -> [T, H, D]; differentiable.
    """
    bounds = cu_seqlens.tolist()
    lengths = {end - start for start, end in zip(bounds[:-1], bounds[1:], strict=True)}
    if len(lengths) == 1 and query.shape[1] == key.shape[1]:  # equal lengths: one batched call (training)
        shape = (len(bounds) - 1, lengths.pop())
        q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in (query, key, value))  # [B, H, L, D]
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(0, 1)
    parts = [
        _attend(query[start:end], key[start:end], value[start:end])
        for start, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    return torch.cat(parts)


def paged_attention(
    query: Tensor, key_cache: Tensor, value_cache: Tensor, block_table: Tensor, seq_lens: Tensor, cu_seqlens: Tensor
) -> Tensor:
    """Attention over one layer's cache, which already holds the new tokens' keys and values.

    query [T, H, D]; key_cache, value_cache [num_blocks, H_kv, block_size, D]; block_table [B, max_blocks];
    seq_lens [B] keys per request; cu_seqlens [B + 1] new tokens per request -> [T, H, D].
    """
    block_size = key_cache.shape[2]
    bounds, lengths = cu_seqlens.tolist(), seq_lens.tolist()
    parts = []
    for row, length in enumerate(lengths):
        blocks = block_table[row, : -(-length // block_size)]
        key = key_cache[blocks].transpose(1, 2).flatten(0, 1)[:length]  # [L, H_kv, D]
        value = value_cache[blocks].transpose(1, 2).flatten(0, 1)[:length]
        parts.append(_attend(query[bounds[row] : bounds[row + 1]], key, value))
    return torch.cat(parts)
