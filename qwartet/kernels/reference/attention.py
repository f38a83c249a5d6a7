"""Reference causal attention: softmax(q k^T / sqrt(d)) v, one request at a time.

Slow and obviously right; every fast attention kernel is compared with these two functions. A query that
is the i-th of n new tokens of a request with L keys sees the first L - n + i + 1 of them.
"""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.forward_batch import ForwardBatch


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of the last n of L positions; query [B, n, H, D], key and value [B, L, H_kv, D] -> [B, n, H, D]."""
    num_new, num_keys = query.shape[1], key.shape[1]
    groups = query.shape[2] // key.shape[2]
    # In bf16, torch's matrix products take far longer on a CPU without instructions for it.
    is_slow = query.device.type == "cpu" and query.dtype.itemsize < 4
    dtype = torch.float32 if is_slow else query.dtype
    q, k, v = (x.transpose(1, 2).to(dtype) for x in (query, key, value))  # [B, H, n or L, D]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if num_new in (1, num_keys):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=num_new > 1)
    else:
        last_seen = torch.arange(num_keys - num_new, num_keys, device=q.device)
        mask = torch.arange(num_keys, device=q.device) <= last_seen[:, None]  # [n, L]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).to(query.dtype)


def dense_attention(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Attention without a cache: request b owns rows cu_seqlens[b] : cu_seqlens[b + 1].

    query [T, H, D], key and value [T, H_kv, D] -> [T, H, D]; differentiable. Neighbours of equal length share one call,
    which makes a training batch fast.
    """
    runs = [(length, len(list(run))) for length, run in groupby(cu_seqlens.diff().tolist())]
    pieces = [x.split([length * count for length, count in runs]) for x in (query, key, value)]
    parts = [
        _attend(*(x.unflatten(0, (count, length)) for x in piece)).flatten(0, 1)  # [B, L, H, D]
        for (length, count), piece in zip(runs, zip(*pieces, strict=True), strict=True)
    ]
    return torch.cat(parts)


def paged_attention(query: Tensor, cache: CacheLayer, batch: ForwardBatch) -> Tensor:
    """Attention over one layer's cache, which already holds the new tokens' keys and values.

    query [T, H, D] -> [T, H, D] in query's dtype.
    """
    assert batch.block_table is not None, "a batch for a cache needs its blocks"
    bounds, lengths = batch.cu_seqlens.tolist(), batch.seq_lens.tolist()
    parts = []
    for row, length in enumerate(lengths):
        key, value = cache.gather(batch.block_table[row, : -(-length // cache.block_size)], length)
        dtype = torch.promote_types(query.dtype, key.dtype)  # codes are decoded to fp32
        new = query[bounds[row] : bounds[row + 1]]
        parts.append(_attend(*(x[None].to(dtype) for x in (new, key, value)))[0])
    return torch.cat(parts).to(query.dtype)
