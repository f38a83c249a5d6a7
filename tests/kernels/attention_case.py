"""Requests with random projections, run through the rotation and the attention of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwartet.kernels.backend import Backend
from qwartet.kernels.cache_layer import CacheDtype, CacheLayer, new_layer
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.head_norms import HeadNorms
from tests.kernels.random_weights import random_bf16

# Of the output's norm: the reference rounds bf16 sums, and probabilities, in another order.
TOLERANCE = 6e-3
BLOCK_SIZE = 16
CACHE_DTYPES: dict[str, CacheDtype] = {"bf16": torch.bfloat16, "int8": "int8", "int4": "int4"}


def new_cache(num_blocks: int, num_kv_heads: int, head_dim: int, dtype: CacheDtype) -> CacheLayer:
    return new_layer(num_blocks, num_kv_heads, BLOCK_SIZE, head_dim, dtype)


def is_same(a: CacheLayer, b: CacheLayer) -> bool:
    """Whether two caches hold the same codes, or floats, bit for bit, and the same scales but for the order of sums."""
    if not (torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)):
        return False
    scales = () if a.bits is None else ((a.key_scales, b.key_scales), (a.value_scales, b.value_scales))
    return all(torch.allclose(*pair, rtol=1e-5, atol=0) for pair in scales)


def attention_batch(
    block_table: Tensor,
    seq_lens: Sequence[int],
    lengths: Sequence[int],
    index: Tensor | None = None,
    slots: Tensor | None = None,
    query_scale: Tensor | None = None,
) -> ForwardBatch:
    """What rotation and attention take of a batch; `lengths`: 0, and the new tokens of each request."""
    bounds = torch.tensor(lengths).cumsum(0).int()
    index = torch.zeros(int(bounds[-1]), dtype=torch.int32) if index is None else index.int()
    return ForwardBatch(
        input_ids=index,
        rope_index=index,
        query_scale=query_scale,
        cu_seqlens=bounds,
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32),
        block_table=block_table.int(),
        slot_mapping=None if slots is None else slots.int(),
    )


@dataclass(frozen=True)
class Case:
    """Requests of some lengths with random projections, over a cache whose blocks lie in random order."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    lengths: tuple[int, ...]
    dtype: CacheDtype
    has_norms: bool = False

    @property
    def norms(self) -> HeadNorms | None:
        """Random ones, if it has them."""
        if not self.has_norms:
            return None
        return HeadNorms(1 + random_bf16(self.head_dim, seed=70) / 2, random_bf16(self.head_dim, seed=71), 1e-6)

    @property
    def block_table(self) -> Tensor:
        num_blocks = [-(-length // BLOCK_SIZE) for length in self.lengths]
        order = torch.randperm(sum(num_blocks) + 3, generator=torch.Generator().manual_seed(5))
        table = torch.zeros(len(num_blocks), max(num_blocks), dtype=torch.int32)
        for row, blocks in enumerate(order.split([*num_blocks, 3])[:-1]):
            table[row, : len(blocks)] = blocks
        return table

    def attend(self, backend: Backend, steps: list[tuple[int, ...]]) -> tuple[Tensor, CacheLayer]:
        """Feeds the requests in steps (each: how far every request then is); the last step's output, and the cache."""
        table = self.block_table
        cache = new_cache(int(table.max()) + 4, self.num_kv_heads, self.head_dim, self.dtype)
        width = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        projections = [random_bf16(length, width, seed=i) * 0.5 for i, length in enumerate(self.lengths)]
        angles = torch.randn(4096, self.rotary_dim // 2, generator=torch.Generator().manual_seed(6))
        starts = (0,) * len(self.lengths)
        for ends in steps:
            places = [torch.arange(start, end, dtype=torch.int32) for start, end in zip(starts, ends, strict=True)]
            index = torch.cat(places)
            slots = [t[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for t, p in zip(table, places, strict=True)]
            qkv = torch.cat([rows[place] for rows, place in zip(projections, places, strict=True)])
            tables = angles.cos(), angles.sin()
            batch = attention_batch(table, ends, [0, *map(len, places)], index, torch.cat(slots), 1 + index / 1000)
            query = backend.rotate_and_store(qkv, self.num_heads, *tables, batch, cache, self.norms)
            out = backend.paged_attention(query, cache, batch)
            starts = ends
        return out, cache
