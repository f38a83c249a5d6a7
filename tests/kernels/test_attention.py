"""Attention kernels: the reference against the definition written out, and paged against dense."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.reference.attention import dense_attention, paged_attention
from tests.kernels.attention_case import attention_batch

TOLERANCE = 1e-5  # fp32 sums of at most 40 terms


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One request, one head, one query at a time; query i of n sees the keys up to its own place at the end."""
    out = torch.empty_like(query)
    groups = query.shape[1] // key.shape[1]
    for i in range(query.shape[0]):
        seen = key.shape[0] - query.shape[0] + i + 1
        for head in range(query.shape[1]):
            scores = key[:seen, head // groups] @ query[i, head] / math.sqrt(query.shape[2])
            out[i, head] = scores.softmax(0) @ value[:seen, head // groups]
    return out


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("lengths", [[1], [7], [3, 3], [5, 1, 9]])
def test_dense_attention_is_the_definition(lengths: list[int], num_kv_heads: int) -> None:
    query = randn(sum(lengths), 4, 8, seed=1)
    key, value = randn(2, sum(lengths), num_kv_heads, 8, seed=2)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    expected = [by_definition(*rows) for rows in zip(*(x.split(lengths) for x in (query, key, value)), strict=True)]
    out = dense_attention(query, key, value, cu_seqlens)
    torch.testing.assert_close(out, torch.cat(expected), rtol=0, atol=TOLERANCE)


def paged(keys: list[Tensor], block_size: int) -> tuple[Tensor, Tensor]:
    """Rows of keys [L, H_kv, D] scattered over the blocks of a cache full of noise, and the block tables."""
    num_blocks = [-(-len(key) // block_size) for key in keys]
    order = torch.randperm(sum(num_blocks) + 3, generator=torch.Generator().manual_seed(3))
    cache = 100 * randn(len(order), keys[0].shape[1], block_size, keys[0].shape[2], seed=4)
    tables = torch.zeros(len(keys), max(num_blocks), dtype=torch.int64)
    for row, (key, blocks) in enumerate(zip(keys, order.split([*num_blocks, 3]), strict=False)):
        tables[row, : len(blocks)] = blocks
        for index, token in enumerate(key):
            cache[blocks[index // block_size], :, index % block_size] = token
    return cache, tables


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_paged_attention_is_the_definition_for_prefill_chunks_and_decode_at_once(
    block_size: int, num_kv_heads: int
) -> None:
    num_new, num_keys = [9, 1, 5, 1], [9, 33, 20, 1]  # a prefill, a decode, a later chunk, a prompt of one
    query = randn(sum(num_new), 4, 8, seed=1)
    keys = [randn(length, num_kv_heads, 8, seed=10 + length) for length in num_keys]
    values = [randn(length, num_kv_heads, 8, seed=50 + length) for length in num_keys]
    key_cache, tables = paged(keys, block_size)
    value_cache, same_tables = paged(values, block_size)
    assert torch.equal(tables, same_tables)
    out = paged_attention(query, CacheLayer(key_cache, value_cache), attention_batch(tables, num_keys, [0, *num_new]))
    expected = [by_definition(*rows) for rows in zip(query.split(num_new), keys, values, strict=True)]
    torch.testing.assert_close(out, torch.cat(expected), rtol=0, atol=TOLERANCE)


def test_unwritten_slots_are_not_read_even_when_they_hold_nan() -> None:
    key_cache = torch.full((2, 1, 4, 8), torch.nan)
    key_cache[1, :, :3] = randn(1, 3, 8)
    batch = attention_batch(torch.tensor([[1]]), [3], [0, 1])
    out = paged_attention(randn(1, 1, 8), CacheLayer(key_cache, key_cache), batch)
    assert out.isfinite().all()


def test_dense_attention_is_differentiable() -> None:
    query, key, value = (randn(6, 2, 4, seed=s).double().requires_grad_() for s in range(3))
    for bounds in ([0, 3, 6], [0, 1, 6]):  # the batched call and the one by one
        assert torch.autograd.gradcheck(lambda *x, b=bounds: dense_attention(*x, torch.tensor(b)), (query, key, value))
