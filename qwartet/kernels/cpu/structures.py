"""Torch tensors as the structures of native functions: sizes and dtypes are checked before a pointer is read."""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.errors import SettingError
from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.cpu import library
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.head_norms import HeadNorms

_STORED = {None: torch.bfloat16, 8: torch.int8, 4: torch.uint8}


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a tensor's data, for an immediate call."""
    return None if tensor is None else tensor.data_ptr()


def check(tensor: Tensor, *shape: int, dtype: torch.dtype = torch.bfloat16) -> None:
    """Asserts dtype, shape and contiguity; SettingError for a tensor that requires a gradient."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise SettingError(
            "the native kernels compute no gradients; load the model with trainable=True, or use no_grad"
        )
    found = (tensor.dtype, tuple(tensor.shape), tensor.device.type)
    assert found == (dtype, shape, "cpu") and tensor.is_contiguous(), (*found, tensor.stride(), "wanted", dtype, shape)


def dense_structure(weight: Tensor, bias: Tensor | None) -> library.Linear:
    """A dense linear [N, K] with its bias [N] or None."""
    check(weight, *weight.shape)
    if bias is not None:
        check(bias, weight.shape[0])
    dense = library.DenseWeight(
        rows=pointer(weight), bias=pointer(bias), num_inputs=weight.shape[1], num_outputs=weight.shape[0]
    )
    return library.Linear(dense=dense, is_packed=0)


def cache_structure(cache: CacheLayer) -> library.CacheLayer:
    """One layer's cache; valid as long as its tensors live."""
    num_blocks, num_kv_heads, block_size, width = cache.keys.shape
    for tensor in (cache.keys, cache.values):
        check(tensor, num_blocks, num_kv_heads, block_size, width, dtype=_STORED[cache.bits])
    for scales in (cache.key_scales, cache.value_scales):
        assert (scales is None) == (cache.bits is None), "codes need scales, floats have none"
        if scales is not None:
            check(scales, num_blocks, num_kv_heads, block_size, dtype=torch.float32)
    return library.CacheLayer(
        keys=pointer(cache.keys), values=pointer(cache.values), key_scales=pointer(cache.key_scales),
        value_scales=pointer(cache.value_scales), num_blocks=num_blocks, num_kv_heads=num_kv_heads,
        block_size=block_size, head_dim=cache.head_dim, bits=cache.bits or 16,
    )  # fmt: skip


def norms_structure(norms: HeadNorms | None, head_dim: int) -> library.HeadNorms:
    """The norms of heads of this size; None for no norms."""
    if norms is None:
        return library.HeadNorms()
    for weight in (norms.query, norms.key):
        check(weight, head_dim)
    return library.HeadNorms(query=pointer(norms.query), key=pointer(norms.key), eps=norms.eps)


def rotation_structure(cos: Tensor, sin: Tensor, batch: ForwardBatch) -> library.Rotation:
    """Tables [rows, rotary_dim / 2] fp32 and the rows that the tokens of a batch use."""
    num_tokens = batch.rope_index.shape[0]
    assert batch.slot_mapping is not None, "a batch for a cache needs its slots"
    for index in (batch.rope_index, batch.slot_mapping):
        check(index, num_tokens, dtype=torch.int32)
    for table in (cos, sin):
        check(table, *cos.shape, dtype=torch.float32)
    if batch.query_scale is not None:
        check(batch.query_scale, num_tokens, dtype=torch.float32)
    return library.Rotation(
        cos=pointer(cos), sin=pointer(sin), rope_index=pointer(batch.rope_index),
        query_scale=pointer(batch.query_scale), slot_mapping=pointer(batch.slot_mapping), rotary_dim=2 * cos.shape[1],
    )  # fmt: skip


def batch_structure(batch: ForwardBatch) -> library.AttentionBatch:
    """The requests of a step."""
    assert batch.block_table is not None, "a batch for a cache needs its blocks"
    num_requests, max_blocks = batch.block_table.shape
    check(batch.block_table, num_requests, max_blocks, dtype=torch.int32)
    check(batch.seq_lens, num_requests, dtype=torch.int32)
    check(batch.cu_seqlens, num_requests + 1, dtype=torch.int32)
    return library.AttentionBatch(
        block_table=pointer(batch.block_table), seq_lens=pointer(batch.seq_lens), cu_seqlens=pointer(batch.cu_seqlens),
        num_requests=num_requests, max_blocks=max_blocks,
    )  # fmt: skip
