"""What a network needs from a device: its operations, and the layout of its weights.

A backend is one object, chosen once (select.py) and passed to every layer. `Backend` itself is the reference: any
device, any dtype, differentiable. A faster one is a folder beside this file with a derived class, which overrides what
it does better and names it in `names`. Only that folder knows its layout:

    weight_specs    what `prepare` will make, from a shape alone: for planning memory and laying out files
    prepare         QuantizedWeight (what the file says) -> PreparedWeight (what the kernels read)
    export, import  PreparedWeight <-> the tensors of its specs: the weight cache on disk
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.kernels.head_norms import HeadNorms
from qwartet.kernels.low_rank import LowRank, PreparedAdapters, ReferenceAdapters, RowAdapters
from qwartet.kernels.reference import attention, elementwise, low_rank, quantized_linear, rotary
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedShape, QuantizedWeight


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a layout, before it is made."""

    leaf: str  # its name within the module: "panels"
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class PreparedWeight(Protocol):
    """A quantised matrix [N, K] in the layout of the backend that made it."""

    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Its tensors, by leaf."""
        ...


class PreparedHead(Protocol):
    """A copy of an output head that finds the largest logit faster."""

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...


LinearWeight = PreparedWeight | tuple[Tensor, Tensor | None]
"""A linear: a prepared weight, or a dense one [N, K] and its bias [N] or None."""


@dataclass(frozen=True)
class LayerWeights:
    """The weights of a residual block, and the adapters beside its linears."""

    attention_norm: Tensor
    mlp_norm: Tensor
    eps: float
    num_heads: int
    qkv: LinearWeight
    output: LinearWeight
    up: LinearWeight
    gate: LinearWeight
    down: LinearWeight
    adapters: tuple[PreparedAdapters | None, ...] = (None,) * 5  # of the linears, in this order
    head_norms: HeadNorms | None = None


class FusedLayers(Protocol):
    """Residual blocks over one KV cache that run in one call, bit-identical to the separate operations."""

    def is_current(self) -> bool:
        """Whether no tensor has moved since this was built."""
        ...

    def run(self, x: Tensor, first: int, end: int, cos: Tensor, sin: Tensor, batch: ForwardBatch) -> Tensor:
        """x [T, C] fp32 through the blocks first : end, in place."""
        ...


@dataclass(frozen=True)
class StepShape:
    """What determines the working memory of a step. Sizes are in elements."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    gptq: GptqConfig | None
    has_prepared_head: bool
    num_tokens: int
    num_rows: int  # of logits at once
    context: int  # keys of the longest request
    num_threads: int
    adapter_rank: int = 0  # of the largest adapter


class Backend:
    """The reference operations, in the layout of the file."""

    names: Mapping[str, str] = {
        "quantized linear": "reference",
        "attention": "reference (torch scaled_dot_product_attention)",
    }
    """Operation -> its implementation, for `qwartet doctor` and the start-up line."""

    layout: str | None = None
    """Name and version of the layout, where it is worth keeping on disk: files of other layouts are not read."""

    can_fuse = False
    """Whether whole blocks run in one call (`fuse`)."""

    # The layout

    def weight_specs(self, shape: QuantizedShape) -> tuple[TensorSpec, ...] | None:
        """What `prepare` will make of a weight, at most; None where the weight keeps the file's layout."""
        return None

    def prepare(self, weight: QuantizedWeight) -> PreparedWeight:
        """Repacks a weight; one that the backend does not support stays as it is, for the reference."""
        return weight

    def export_weight(self, weight: PreparedWeight) -> dict[str, Tensor]:
        """The tensors of `weight_specs`, all of them."""
        raise NotImplementedError

    def import_weight(self, shape: QuantizedShape, tensors: Mapping[str, Tensor]) -> PreparedWeight:
        """What `prepare` made, from the tensors of `weight_specs`; ValueError with a reason where they are damaged."""
        raise NotImplementedError

    def head_specs(self, rows: int, columns: int) -> tuple[TensorSpec, ...] | None:
        """What `prepare_head` will make of a head [rows, columns]; None where the backend makes no copy."""
        return None

    def prepare_head(self, weight: Tensor) -> PreparedHead:
        """A copy of a head [V, C] for `head_argmax`."""
        raise NotImplementedError

    def import_head(self, rows: int, columns: int, tensors: Mapping[str, Tensor]) -> PreparedHead:
        """The same from the tensors of `head_specs`."""
        raise NotImplementedError

    def prepare_adapters(
        self, adapters: Sequence[LowRank | None], dtype: torch.dtype, device: torch.device
    ) -> PreparedAdapters:
        """All adapters of one linear, by number; None where one leaves the linear as it is. `dtype`: the network's."""
        return ReferenceAdapters(adapters, dtype, device)

    # Operations; shape letters as in layers/

    def quantized_linear(self, x: Tensor, weight: PreparedWeight) -> Tensor:
        """x [..., K] -> [..., N]."""
        assert isinstance(weight, QuantizedWeight), f"{type(weight).__name__} belongs to another backend"
        return quantized_linear.linear(x, weight)

    def quantized_linear_gradient(self, grad_y: Tensor, weight: PreparedWeight, dtype: torch.dtype) -> Tensor:
        """The gradient of x [..., K] in `dtype` from that of y [..., N]; the dequantised matrix is never whole."""
        assert isinstance(weight, QuantizedWeight), f"{type(weight).__name__} belongs to another backend"
        return quantized_linear.linear_backward_input(grad_y, weight).to(dtype)

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., K], weight [N, K], bias [N] -> [..., N]."""
        return F.linear(x, weight, bias)

    def dense_linear_gradient(self, grad_y: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The gradient of x [..., K] in `dtype` from that of y [..., N], weight [N, K]."""
        return (grad_y @ weight.to(grad_y.dtype)).to(dtype)

    def adapted_linear(self, x: Tensor, weight: LinearWeight, rows: RowAdapters) -> Tensor:
        """x [..., K] -> [..., N], to which each row's adapter is added."""
        if isinstance(weight, tuple):
            return low_rank.add(self.dense_linear(x, *weight), x, rows)
        return low_rank.add(self.quantized_linear(x, weight), x, rows)

    def head_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [R, C], weight [V, C] -> [R, V]."""
        return F.linear(x, weight)

    def loss_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same in fp32 for many rows at once: for a loss, not for drawing tokens, since sums may differ."""
        return self.head_logits(x, weight).float()

    def head_argmax(self, x: Tensor, head: PreparedHead, weight: Tensor, num_valid: int) -> list[int]:
        """The id below num_valid with the largest logit for each row of x [R, C]; -1 where the row is not finite."""
        raise NotImplementedError

    def embed(self, ids: Tensor, table: Tensor) -> Tensor:
        """Rows of table [V, C] for ids [T] -> [T, C] fp32."""
        return elementwise.embed(ids, table)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [..., C] -> [..., C] in the dtype of weight [C]."""
        return elementwise.rms_norm(x, weight, eps)

    def silu_mul(self, up: Tensor, gate: Tensor) -> Tensor:
        """up * silu(gate)."""
        return elementwise.silu_mul(up, gate)

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
        """Norms and rotates the heads of qkv [T, (H + 2 H_kv) D], stores keys and values, returns queries [T, H, D].

        See reference/rotary.py.
        """
        return rotary.rotate_and_store(qkv, num_heads, cos, sin, batch, cache, norms)

    def paged_attention(self, query: Tensor, cache: CacheLayer, batch: ForwardBatch) -> Tensor:
        """query [T, H, D] over the cache -> [T, H, D] (reference/attention.py)."""
        return attention.paged_attention(query, cache, batch)

    # A whole step

    def fuse(self, layers: Sequence[LayerWeights], caches: Sequence[CacheLayer]) -> FusedLayers | None:
        """The blocks as one call over their caches; None if that is not possible."""
        return None

    def scratch_bytes(self, step: StepShape) -> int | None:
        """Scratch memory that the kernels keep after such a step; None where torch allocates it."""
        return None


REFERENCE = Backend()
