"""The operations of the native CPU library on torch tensors: check, allocate, call.

All tensors are bf16 and contiguous on the CPU unless a docstring says otherwise. `activations` is how the inputs of a
quantised linear are rounded: "exact" (16 bits) or "int8" (8 bits, and 16 for the groups in which a value stands out);
see csrc/activations.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, byref, c_int64, c_void_p
from typing import Literal

import torch
from torch import Tensor

from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.library import NativeLibrary, native_library
from qwartet.kernels.cpu.weights import PackedHead, PackedWeight, pointer

Activations = Literal["exact", "int8"]
_LOW = {"exact": 0, "int8": 1}
_STORED = {None: torch.bfloat16, 8: torch.int8, 4: torch.uint8}


def _library() -> NativeLibrary:
    library = native_library()
    assert library is not None, "this operation needs the native library"
    return library


def _check(tensor: Tensor, *shape: int, dtype: torch.dtype = torch.bfloat16) -> None:
    found = (tensor.dtype, tuple(tensor.shape), tensor.device.type)
    assert found == (dtype, shape, "cpu") and tensor.is_contiguous(), (*found, tensor.stride(), "wanted", dtype, shape)


def linear(
    x: Tensor, weight: PackedWeight, activations: Activations = "exact", *, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """x [..., K] times a packed weight -> [..., N] in `dtype` (bf16 or fp32)."""
    return _linear(x, weight.structure, weight.in_features, weight.out_features, _LOW[activations], dtype)


def dense_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """x [..., K] times a dense weight [N, K], plus a bias [N] -> [..., N] in `dtype`."""
    return _linear(x, _dense_structure(weight, bias), weight.shape[1], weight.shape[0], 0, dtype)


def _dense_structure(weight: Tensor, bias: Tensor | None) -> native.Linear:
    _check(weight, *weight.shape)
    if bias is not None:
        _check(bias, weight.shape[0])
    dense = native.DenseWeight(
        rows=pointer(weight), bias=pointer(bias), num_inputs=weight.shape[1], num_outputs=weight.shape[0]
    )
    return native.Linear(dense=dense, is_packed=0)


def _linear(
    x: Tensor, structure: native.Linear, num_inputs: int, num_outputs: int, low: int, dtype: torch.dtype
) -> Tensor:
    rows = x.reshape(-1, num_inputs).contiguous()
    _check(rows, rows.shape[0], num_inputs)
    assert dtype in (torch.bfloat16, torch.float32), dtype
    y = torch.empty(*x.shape[:-1], num_outputs, dtype=dtype)
    if rows.shape[0]:
        is_float = int(dtype == torch.float32)
        _library().call("qw_linear", byref(structure), pointer(rows), rows.shape[0], low, pointer(y), is_float)
    return y


def embed(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of table [V, C] for int64 ids [T] -> [T, C] fp32."""
    (num_tokens,), (num_rows, size) = ids.shape, table.shape
    _check(ids, num_tokens, dtype=torch.int64)
    _check(table, num_rows, size)
    x = torch.empty(num_tokens, size)
    if num_tokens:
        _library().call("qw_embed", pointer(ids), pointer(table), num_tokens, num_rows, size, pointer(x))
    return x


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension of x [..., C] fp32 -> bf16, rounded once."""
    rows = x.contiguous()
    _check(rows, *x.shape, dtype=torch.float32)
    _check(weight, x.shape[-1])
    y = torch.empty_like(rows, dtype=torch.bfloat16)
    size = x.shape[-1]
    if rows.numel():
        _library().call("qw_rms_norm", pointer(rows), pointer(weight), eps, rows.numel() // size, size, pointer(y))
    return y


def silu_mul(up: Tensor, gate: Tensor) -> Tensor:
    """up * silu(gate), rounded once."""
    _check(up, *gate.shape)
    _check(gate, *up.shape)
    h = torch.empty_like(up)
    if up.numel():
        _library().call("qw_silu_mul", pointer(up), pointer(gate), up.numel(), pointer(h))
    return h


def cache_structure(cache: CacheLayer) -> native.CacheLayer:
    """What the native functions take for a layer's cache; good for as long as its tensors live."""
    num_blocks, num_kv_heads, block_size, width = cache.keys.shape
    for tensor in (cache.keys, cache.values):
        _check(tensor, num_blocks, num_kv_heads, block_size, width, dtype=_STORED[cache.bits])
    for scales in (cache.key_scales, cache.value_scales):
        if cache.bits is None:
            assert scales is None, "floats have no scales"
        else:
            _check(scales, num_blocks, num_kv_heads, block_size, dtype=torch.float32)
    return native.CacheLayer(
        keys=pointer(cache.keys), values=pointer(cache.values), key_scales=pointer(cache.key_scales),
        value_scales=pointer(cache.value_scales), num_blocks=num_blocks, num_kv_heads=num_kv_heads,
        block_size=block_size, head_dim=cache.head_dim, bits=cache.bits or 16,
    )  # fmt: skip


def _rotation_structure(
    cos: Tensor, sin: Tensor, rope_index: Tensor, query_scale: Tensor | None, slot_mapping: Tensor
) -> native.Rotation:
    for index in (rope_index, slot_mapping):
        _check(index, rope_index.shape[0], dtype=torch.int64)
    for table in (cos, sin):
        _check(table, *cos.shape, dtype=torch.float32)
    if query_scale is not None:
        _check(query_scale, rope_index.shape[0], dtype=torch.float32)
    return native.Rotation(
        cos=pointer(cos), sin=pointer(sin), rope_index=pointer(rope_index), query_scale=pointer(query_scale),
        slot_mapping=pointer(slot_mapping), rotary_dim=2 * cos.shape[1],
    )  # fmt: skip


def _batch_structure(block_table: Tensor, seq_lens: Tensor, cu_seqlens: Tensor) -> native.AttentionBatch:
    num_requests, max_blocks = block_table.shape
    _check(block_table, num_requests, max_blocks, dtype=torch.int64)
    _check(seq_lens, num_requests, dtype=torch.int64)
    _check(cu_seqlens, num_requests + 1, dtype=torch.int64)
    return native.AttentionBatch(
        block_table=pointer(block_table), seq_lens=pointer(seq_lens), cu_seqlens=pointer(cu_seqlens),
        num_requests=num_requests, max_blocks=max_blocks,
    )  # fmt: skip


def rotate_and_store(
    qkv: Tensor,
    num_heads: int,
    cos: Tensor,
    sin: Tensor,
    rope_index: Tensor,
    query_scale: Tensor | None,
    slot_mapping: Tensor,
    cache: CacheLayer,
) -> Tensor:
    """As in reference/rotary.py; the queries are turned where they stand in qkv, and a view of them comes back."""
    num_tokens, head_dim = qkv.shape[0], cache.head_dim
    _check(qkv, num_tokens, (num_heads + 2 * cache.keys.shape[1]) * head_dim)
    rotation = _rotation_structure(cos, sin, rope_index, query_scale, slot_mapping)
    _library().call(
        "qw_rotate_and_store", pointer(qkv), num_tokens, num_heads, byref(rotation), cos.shape[0],
        byref(cache_structure(cache)),
    )  # fmt: skip
    return qkv[:, : num_heads * head_dim].unflatten(-1, (num_heads, head_dim))


def paged_attention(
    query: Tensor, cache: CacheLayer, block_table: Tensor, seq_lens: Tensor, cu_seqlens: Tensor
) -> Tensor:
    """As in reference/attention.py; query [T, H, D] may be a view of rows that are further apart."""
    num_tokens, num_heads, head_dim = query.shape
    assert query.dtype == torch.bfloat16 and query.stride()[1:] == (head_dim, 1), (query.dtype, query.stride())
    out = torch.empty(num_tokens, num_heads, head_dim, dtype=torch.bfloat16)
    _library().call(
        "qw_paged_attention", pointer(query), query.stride(0), num_tokens, num_heads, byref(cache_structure(cache)),
        byref(_batch_structure(block_table, seq_lens, cu_seqlens)), pointer(out),
    )  # fmt: skip
    return out


DenseOrPacked = PackedWeight | tuple[Tensor, Tensor | None]
"""A packed weight, or a dense one [N, K] and its bias or None."""


class LayerWeights:
    """The weights of a residual block as one native structure, which holds on to the tensors it points to."""

    def __init__(
        self,
        *,
        attention_norm: Tensor,
        mlp_norm: Tensor,
        eps: float,
        num_heads: int,
        qkv: DenseOrPacked,
        output: DenseOrPacked,
        up: DenseOrPacked,
        gate: DenseOrPacked,
        down: DenseOrPacked,
    ) -> None:
        hidden_size = attention_norm.shape[0]
        _check(attention_norm, hidden_size)
        _check(mlp_norm, hidden_size)
        self.norms = (attention_norm, mlp_norm)
        self._linears = [_LayerLinear(weight) for weight in (qkv, output, up, gate, down)]
        names = ("qkv", "output", "up", "gate", "down")
        self.structure = native.Layer(
            attention_norm=pointer(attention_norm), mlp_norm=pointer(mlp_norm), eps=eps, num_heads=num_heads,
            hidden_size=hidden_size, intermediate_size=self._linears[2].out_features,
            **{name: linear.structure for name, linear in zip(names, self._linears, strict=True)},
        )  # fmt: skip

    def has_moved(self) -> bool:
        """Whether a tensor that can be moved has been: its data then lies where the structure does not point."""
        if pointer(self.norms[0]) != self.structure.attention_norm or pointer(self.norms[1]) != self.structure.mlp_norm:
            return True
        return any(linear.has_moved() for linear in self._linears)


class _LayerLinear:
    """One linear of LayerWeights: its structure, and what keeps the data of the structure alive."""

    def __init__(self, weight: DenseOrPacked) -> None:
        self._weight = weight
        if isinstance(weight, PackedWeight):
            self.structure, self.out_features = weight.structure, weight.out_features
        else:
            self.structure, self.out_features = _dense_structure(*weight), weight[0].shape[0]

    def has_moved(self) -> bool:
        if isinstance(self._weight, PackedWeight):
            return False
        dense, (rows, bias) = self.structure.dense, self._weight
        return pointer(rows) != dense.rows or pointer(bias) != dense.bias


def decoder_layers(
    x: Tensor,
    layers: Sequence[LayerWeights],
    caches: Sequence[native.CacheLayer],
    cos: Tensor,
    sin: Tensor,
    rope_index: Tensor,
    query_scale: Tensor | None,
    slot_mapping: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    cu_seqlens: Tensor,
    activations: Activations = "exact",
) -> Tensor:
    """x [T, C] fp32 through residual blocks in one native call, in place; the bits of the operations one by one."""
    num_tokens, hidden_size = x.shape
    _check(x, num_tokens, hidden_size, dtype=torch.float32)
    rotation = _rotation_structure(cos, sin, rope_index, query_scale, slot_mapping)
    layer_pointers = (c_void_p * len(layers))(*(addressof(layer.structure) for layer in layers))
    cache_pointers = (c_void_p * len(layers))(*(addressof(cache) for cache in caches))
    _library().call(
        "qw_decoder_layers", layer_pointers, cache_pointers, len(layers), pointer(x), num_tokens, hidden_size,
        byref(rotation), cos.shape[0], byref(_batch_structure(block_table, seq_lens, cu_seqlens)), _LOW[activations],
    )  # fmt: skip
    return x


def head_argmax(x: Tensor, head: PackedHead, weight: Tensor, num_valid: int) -> tuple[list[int], list[int]]:
    """The most probable id below num_valid for each row of x [R, C] by the exact head [V, C]; -1 where x is not finite.

    The second list says how many rows of the exact head were read.
    """
    num_rows = x.shape[0]
    rows = x.contiguous()
    _check(rows, num_rows, weight.shape[1])
    _check(weight, head.packed.out_features, head.packed.in_features)
    structure = native.Head(
        packed=head.packed.structure.packed, error_norms=pointer(head.error_norms), row_norms=pointer(head.row_norms),
        exact=_dense_structure(weight, None).dense,
    )  # fmt: skip
    token_ids, num_candidates = (c_int64 * num_rows)(), (c_int64 * num_rows)()
    if num_rows:
        _library().call(
            "qw_head_argmax", byref(structure), pointer(rows), num_rows, num_valid, token_ids, num_candidates
        )
    return list(token_ids), list(num_candidates)
