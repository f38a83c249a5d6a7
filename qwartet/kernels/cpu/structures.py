"""Torch tensors as the structures that native functions take: sizes and dtypes are checked before a pointer is read."""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.errors import SettingError
from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.cpu import library

_STORED = {None: torch.bfloat16, 8: torch.int8, 4: torch.uint8}


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a tensor's data, for a call that is about to happen."""
    return None if tensor is None else tensor.data_ptr()


def check(tensor: Tensor, *shape: int, dtype: torch.dtype = torch.bfloat16) -> None:
    """Asserts dtype, shape and contiguity; SettingError for a tensor whose gradient the native kernels would lose."""
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
    """One layer's cache; good for as long as its tensors live."""
    num_blocks, num_kv_heads, block_size, width = cache.keys.shape
    for tensor in (cache.keys, cache.values):
        check(tensor, num_blocks, num_kv_heads, block_size, width, dtype=_STORED[cache.bits])
    for scales in (cache.key_scales, cache.value_scales):
        assert (scales is None) == (cache.bits is None), "codes have scales, floats have none"
        if scales is not None:
            check(scales, num_blocks, num_kv_heads, block_size, dtype=torch.float32)
    return library.CacheLayer(
        keys=pointer(cache.keys), values=pointer(cache.values), key_scales=pointer(cache.key_scales),
        value_scales=pointer(cache.value_scales), num_blocks=num_blocks, num_kv_heads=num_kv_heads,
        block_size=block_size, head_dim=cache.head_dim, bits=cache.bits or 16,
    )  # fmt: skip


def rotation_structure(
    cos: Tensor, sin: Tensor, rope_index: Tensor, query_scale: Tensor | None, slot_mapping: Tensor
) -> library.Rotation:
    """Tables [rows, rotary_dim / 2] fp32 and what the tokens take of them, [T] each."""
    for index in (rope_index, slot_mapping):
        check(index, rope_index.shape[0], dtype=torch.int32)
    for table in (cos, sin):
        check(table, *cos.shape, dtype=torch.float32)
    if query_scale is not None:
        check(query_scale, rope_index.shape[0], dtype=torch.float32)
    return library.Rotation(
        cos=pointer(cos), sin=pointer(sin), rope_index=pointer(rope_index), query_scale=pointer(query_scale),
        slot_mapping=pointer(slot_mapping), rotary_dim=2 * cos.shape[1],
    )  # fmt: skip


def batch_structure(block_table: Tensor, seq_lens: Tensor, cu_seqlens: Tensor) -> library.AttentionBatch:
    """The requests of a step: blocks [B, max_blocks], keys [B], bounds of their new tokens [B + 1]."""
    num_requests, max_blocks = block_table.shape
    check(block_table, num_requests, max_blocks, dtype=torch.int32)
    check(seq_lens, num_requests, dtype=torch.int32)
    check(cu_seqlens, num_requests + 1, dtype=torch.int32)
    return library.AttentionBatch(
        block_table=pointer(block_table), seq_lens=pointer(seq_lens), cu_seqlens=pointer(cu_seqlens),
        num_requests=num_requests, max_blocks=max_blocks,
    )  # fmt: skip
