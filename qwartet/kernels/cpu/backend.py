"""The native CPU library as a backend: check, allocate, call.

All tensors are bf16 and contiguous on the CPU unless a docstring says otherwise; indices are int32. `activations` is
how the inputs of a quantised linear are rounded: "exact" (16 bits) or "int8" (8 bits, but 16 for groups with an
outlier); see csrc/activations.h.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from ctypes import byref, c_int64
from typing import Literal

import torch
from torch import Tensor

from qwartet.errors import KernelWarning
from qwartet.kernels.backend import (
    Backend,
    LayerWeights,
    LinearWeight,
    PreparedHead,
    PreparedWeight,
    StepShape,
    TensorSpec,
)
from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu import weights
from qwartet.kernels.cpu.fused import NativeLayers
from qwartet.kernels.cpu.low_rank import NativeAdapters, row_arguments
from qwartet.kernels.cpu.structures import (
    batch_structure,
    cache_structure,
    check,
    dense_structure,
    norms_structure,
    pointer,
    rotation_structure,
)
from qwartet.kernels.cpu.weights import PackedHead, PackedWeight
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.head_norms import HeadNorms
from qwartet.kernels.low_rank import LowRank, PreparedAdapters, RowAdapters
from qwartet.quant_format.weight import QuantizedShape, QuantizedWeight

Activations = Literal["exact", "int8"]
_LOW = {"exact": 0, "int8": 1}


class CpuBackend(Backend):
    """One library, and one way to round activations."""

    layout = weights.LAYOUT
    can_fuse = True

    def __init__(self, library: native.NativeLibrary, activations: Activations = "exact") -> None:
        self.library = library
        self.low = _LOW[activations]
        name = f"native {library.isa}"
        self.names = {"quantized linear": f"{name}, {activations} activations", "attention": name}

    def weight_specs(self, shape: QuantizedShape) -> tuple[TensorSpec, ...] | None:
        return weights.weight_specs(shape)

    def prepare(self, weight: QuantizedWeight) -> PreparedWeight:
        """Packs a weight; if its group size is not a multiple of 32, the reference keeps it, with a KernelWarning."""
        if weights.packed_shape(weight.shape) is not None:
            return weights.pack(self.library, weight)
        message = f"groups of {weight.group_size} are not a multiple of 32: these weights run on the slow reference"
        warnings.warn(KernelWarning(message), stacklevel=2)
        return weight

    def export_weight(self, weight: PreparedWeight) -> dict[str, Tensor]:
        assert isinstance(weight, PackedWeight), "weight_specs promised a packed weight"
        return weight.complete_tensors()

    def import_weight(self, shape: QuantizedShape, tensors: Mapping[str, Tensor]) -> PreparedWeight:
        return PackedWeight.of_tensors(shape, tensors)

    def head_specs(self, rows: int, columns: int) -> tuple[TensorSpec, ...] | None:
        return weights.head_specs(rows, columns)

    def prepare_head(self, weight: Tensor) -> PreparedHead:
        return weights.pack_head(self.library, weight)

    def import_head(self, rows: int, columns: int, tensors: Mapping[str, Tensor]) -> PreparedHead:
        return PackedHead(PackedWeight(weights.head_shape(rows, columns), tensors["panels"]), **_norms(tensors))

    def prepare_adapters(
        self, adapters: Sequence[LowRank | None], dtype: torch.dtype, device: torch.device
    ) -> PreparedAdapters:
        return NativeAdapters(adapters)

    def quantized_linear(self, x: Tensor, weight: PreparedWeight, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """x [..., K] times a packed weight -> [..., N] in `dtype` (bf16 or fp32)."""
        if not isinstance(weight, PackedWeight):
            return super().quantized_linear(x, weight)
        return self._linear(x, weight.structure, weight.in_features, weight.out_features, dtype)

    def dense_linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dtype: torch.dtype = torch.bfloat16
    ) -> Tensor:
        """x [..., K] times a dense weight [N, K], plus a bias [N] -> [..., N] in `dtype`."""
        return self._linear(x, dense_structure(weight, bias), weight.shape[1], weight.shape[0], dtype)

    def adapted_linear(
        self, x: Tensor, weight: LinearWeight, rows: RowAdapters, *, dtype: torch.dtype = torch.bfloat16
    ) -> Tensor:
        """x [..., K] -> [..., N] in `dtype`, to which each row's adapter is added; rounded once."""
        if isinstance(weight, tuple):
            return self._linear(x, dense_structure(*weight), weight[0].shape[1], weight[0].shape[0], dtype, rows)
        if not isinstance(weight, PackedWeight):
            return super().adapted_linear(x, weight, rows)
        return self._linear(x, weight.structure, weight.in_features, weight.out_features, dtype, rows)

    def _linear(
        self,
        x: Tensor,
        structure: native.Linear,
        num_inputs: int,
        num_outputs: int,
        dtype: torch.dtype,
        adapted: RowAdapters | None = None,
    ) -> Tensor:
        rows = x.reshape(-1, num_inputs).contiguous()
        check(rows, rows.shape[0], num_inputs)
        assert dtype in (torch.bfloat16, torch.float32), dtype
        y = torch.empty(*x.shape[:-1], num_outputs, dtype=dtype)
        if rows.shape[0]:
            is_float = int(dtype == torch.float32)
            self.library.call(
                "qw_linear", byref(structure), pointer(rows), rows.shape[0], self.low, pointer(y), is_float,
                *row_arguments(adapted, rows.shape[0]),
            )  # fmt: skip
        return y

    def quantized_linear_gradient(self, grad_y: Tensor, weight: PreparedWeight, dtype: torch.dtype) -> Tensor:
        """grad_y [..., N] bf16 or fp32 -> [..., K] in `dtype`, bf16 or fp32; sums in fp32."""
        if not isinstance(weight, PackedWeight):
            return super().quantized_linear_gradient(grad_y, weight, dtype)
        return self._linear_gradient(grad_y, weight.structure, weight.in_features, weight.out_features, dtype)

    def dense_linear_gradient(self, grad_y: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The same for a dense weight [N, K] in bf16."""
        return self._linear_gradient(grad_y, dense_structure(weight, None), weight.shape[1], weight.shape[0], dtype)

    def _linear_gradient(
        self, grad_y: Tensor, structure: native.Linear, num_inputs: int, num_outputs: int, dtype: torch.dtype
    ) -> Tensor:
        rows = grad_y.reshape(-1, num_outputs).contiguous()
        for one in (rows.dtype, dtype):
            assert one in (torch.bfloat16, torch.float32), one
        check(rows, rows.shape[0], num_outputs, dtype=rows.dtype)
        grad_x = torch.empty(*grad_y.shape[:-1], num_inputs, dtype=dtype)
        if rows.shape[0]:
            self.library.call(
                "qw_linear_gradient", byref(structure), pointer(rows), int(rows.dtype == torch.float32), rows.shape[0],
                pointer(grad_x), int(dtype == torch.float32),
            )  # fmt: skip
        return grad_x

    def head_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [R, C], weight [V, C] -> [R, V] fp32."""
        return self.dense_linear(x, weight, dtype=torch.float32)

    def loss_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        rows = x.contiguous()
        check(rows, rows.shape[0], weight.shape[1])
        logits = torch.empty(rows.shape[0], weight.shape[0])
        if rows.shape[0]:
            self.library.call(
                "qw_dense_linear_many", byref(dense_structure(weight, None)), pointer(rows), rows.shape[0],
                pointer(logits),
            )  # fmt: skip
        return logits

    def head_argmax(self, x: Tensor, head: PreparedHead, weight: Tensor, num_valid: int) -> list[int]:
        return self.search_head(x, head, weight, num_valid)[0]

    def search_head(self, x: Tensor, head: PreparedHead, weight: Tensor, num_valid: int) -> tuple[list[int], list[int]]:
        """As head_argmax; the second list counts the rows of the exact head that were read."""
        assert isinstance(head, PackedHead), type(head)
        num_rows = x.shape[0]
        rows = x.contiguous()
        check(rows, num_rows, weight.shape[1])
        check(weight, head.packed.out_features, head.packed.in_features)
        structure = native.Head(
            packed=head.packed.structure.packed, error_norms=pointer(head.error_norms),
            row_norms=pointer(head.row_norms), exact=dense_structure(weight, None).dense,
        )  # fmt: skip
        token_ids, num_candidates = (c_int64 * num_rows)(), (c_int64 * num_rows)()
        if num_rows:
            self.library.call(
                "qw_head_argmax", byref(structure), pointer(rows), num_rows, num_valid, token_ids, num_candidates
            )
        return list(token_ids), list(num_candidates)

    def embed(self, ids: Tensor, table: Tensor) -> Tensor:
        """Rows of table [V, C] for int32 ids [T] -> [T, C] fp32."""
        (num_tokens,), (num_rows, size) = ids.shape, table.shape
        check(ids, num_tokens, dtype=torch.int32)
        check(table, num_rows, size)
        x = torch.empty(num_tokens, size)
        if num_tokens:
            self.library.call("qw_embed", pointer(ids), pointer(table), num_tokens, num_rows, size, pointer(x))
        return x

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [..., C] fp32 -> bf16, rounded once."""
        rows = x.contiguous()
        check(rows, *x.shape, dtype=torch.float32)
        check(weight, x.shape[-1])
        y = torch.empty_like(rows, dtype=torch.bfloat16)
        size = x.shape[-1]
        if rows.numel():
            self.library.call(
                "qw_rms_norm", pointer(rows), pointer(weight), eps, rows.numel() // size, size, pointer(y)
            )
        return y

    def silu_mul(self, up: Tensor, gate: Tensor) -> Tensor:
        """up * silu(gate), rounded once."""
        check(up, *gate.shape)
        check(gate, *up.shape)
        h = torch.empty_like(up)
        if up.numel():
            self.library.call("qw_silu_mul", pointer(up), pointer(gate), up.numel(), pointer(h))
        return h

    def rotate_and_store(
        self,
        qkv: Tensor,
        num_heads: int,
        cos: Tensor,
        sin: Tensor,
        batch: ForwardBatch,
        cache: CacheLayer,
        norms: HeadNorms | None = None,
    ) -> Tensor:
        """Norms and rotates the queries in place in qkv and returns a view of them."""
        num_tokens, head_dim = qkv.shape[0], cache.head_dim
        check(qkv, num_tokens, (num_heads + 2 * cache.keys.shape[1]) * head_dim)
        self.library.call(
            "qw_rotate_and_store", pointer(qkv), num_tokens, num_heads, byref(norms_structure(norms, head_dim)),
            byref(rotation_structure(cos, sin, batch)), cos.shape[0], byref(cache_structure(cache)),
        )  # fmt: skip
        query: Tensor = qkv[:, : num_heads * head_dim].unflatten(-1, (num_heads, head_dim))
        return query

    def paged_attention(self, query: Tensor, cache: CacheLayer, batch: ForwardBatch) -> Tensor:
        """query [T, H, D] may be a view with a larger row stride."""
        num_tokens, num_heads, head_dim = query.shape
        check(query[:, :, :0], num_tokens, num_heads, 0)  # dtype, device and gradient, not strides
        assert query.stride()[1:] == (head_dim, 1), query.stride()
        out = torch.empty(num_tokens, num_heads, head_dim, dtype=torch.bfloat16)
        self.library.call(
            "qw_paged_attention", pointer(query), query.stride(0), num_tokens, num_heads, byref(cache_structure(cache)),
            byref(batch_structure(batch)), pointer(out),
        )  # fmt: skip
        return out

    def fuse(self, layers: Sequence[LayerWeights], caches: Sequence[CacheLayer]) -> NativeLayers | None:
        """None if a linear runs on the reference."""
        return NativeLayers.of(self.library, layers, caches, self.low)

    def scratch_bytes(self, step: StepShape) -> int:
        shared, of_thread = self.step_bytes(step)
        return shared + step.num_threads * of_thread

    def step_bytes(self, step: StepShape) -> tuple[int, int]:
        """Bytes of the buffers that the operations share, and of each thread's own."""
        gptq, (shared, of_thread) = step.gptq, (c_int64(), c_int64())
        shape = native.StepShape(
            **{name: getattr(step, name) for name in native.StepShape.SHARED_FIELDS},
            bits=0 if gptq is None else gptq.bits, unit=0 if gptq is None else weights.unit_of(gptq.group_size),
            act_order=gptq is not None and gptq.desc_act, has_packed_head=step.has_prepared_head,
        )  # fmt: skip
        self.library.functions.qw_step_bytes(byref(shape), byref(shared), byref(of_thread))
        return shared.value, of_thread.value


class CpuLinearBackend(CpuBackend):
    """Native linears and the reference attention: for head sizes that the native one lacks, as in toy models."""

    can_fuse = False

    def __init__(self, library: native.NativeLibrary, activations: Activations = "exact") -> None:
        super().__init__(library, activations)
        self.names = {**self.names, "attention": Backend.names["attention"]}

    rotate_and_store = Backend.rotate_and_store
    paged_attention = Backend.paged_attention

    def fuse(self, layers: Sequence[LayerWeights], caches: Sequence[CacheLayer]) -> None:
        return None

    def scratch_bytes(self, step: StepShape) -> None:  # type: ignore[override]
        return None


def _norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {leaf: tensors[leaf] for leaf in ("error_norms", "row_norms")}
