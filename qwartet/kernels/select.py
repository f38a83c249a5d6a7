"""Which functions serve the operations of a model: one table for a device, dtype and shape, and what was chosen.

CPU, bf16      the native library; without it torch's int4 operation, and the references for the rest
everything else                     the references
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwartet.errors import KernelWarning, SettingError
from qwartet.kernels import torch_int4 as int4_torch
from qwartet.kernels.cpu import operations as cpu
from qwartet.kernels.cpu import weights as cpu_weights
from qwartet.kernels.cpu.library import native_library, unavailable_reason
from qwartet.kernels.reference import attention as attention_reference
from qwartet.kernels.reference import elementwise as elementwise_reference
from qwartet.kernels.reference import quantized_linear as int4_reference
from qwartet.kernels.reference import rotary as rotary_reference
from qwartet.quant_format.weight import QuantizedWeight

ACTIVATIONS = ("exact", "int8")
DEFAULT_ACTIVATIONS: cpu.Activations = "int8"  # the faster one; keeps its bounds with outliers too (docs/kernels.md)


@dataclass(frozen=True)
class Kernels:
    """One function for each operation; signatures as in the references. `names` says what serves what."""

    names: dict[str, str]
    prepare: Callable[[QuantizedWeight], Any]
    quantized_linear: Callable[[Tensor, Any], Tensor]
    dense_linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    head_logits: Callable[[Tensor, Tensor], Tensor]  # x [R, C], weight [V, C] -> [R, V]
    embed: Callable[[Tensor, Tensor], Tensor]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    silu_mul: Callable[[Tensor, Tensor], Tensor]
    rotate_and_store: Callable[..., Tensor]
    paged_attention: Callable[..., Tensor]
    packed_shape: Callable[[int, int, int, int, int, bool], cpu_weights.PackedShape | None] | None = None  # of_gptq
    decoder_layers: Callable[..., Tensor] | None = None  # residual blocks in one call
    pack_head: Callable[[Tensor], cpu_weights.PackedHead] | None = None
    head_argmax: Callable[..., tuple[list[int], list[int]]] | None = None


REFERENCE = Kernels(
    names={"quantized linear": "reference", "attention": "reference (torch scaled_dot_product_attention)"},
    prepare=int4_reference.prepare,
    quantized_linear=int4_reference.linear,
    dense_linear=F.linear,
    head_logits=F.linear,
    embed=elementwise_reference.embed,
    rms_norm=elementwise_reference.rms_norm,
    silu_mul=elementwise_reference.silu_mul,
    rotate_and_store=rotary_reference.rotate_and_store,
    paged_attention=attention_reference.paged_attention,
)


def _pack(weight: QuantizedWeight) -> cpu_weights.PackedWeight | QuantizedWeight:
    if cpu_weights.packed_shape(weight) is not None:
        return cpu_weights.pack(weight)
    message = f"groups of {weight.group_size} are no multiple of 32: the slow reference multiplies by these weights"
    warnings.warn(KernelWarning(message), stacklevel=2)
    return weight


def _multiply(x: Tensor, weight: cpu_weights.PackedWeight | QuantizedWeight, activations: cpu.Activations) -> Tensor:
    if isinstance(weight, QuantizedWeight):
        return int4_reference.linear(x, weight)
    return cpu.linear(x, weight, activations)


def _native(isa: str, activations: cpu.Activations, head_dim: int, rotary_dim: int) -> Kernels:
    name = f"native {isa}, {activations} activations"
    kernels = Kernels(
        names={"quantized linear": name, "attention": f"native {isa}"},
        prepare=_pack,
        quantized_linear=partial(_multiply, activations=activations),
        dense_linear=cpu.dense_linear,
        head_logits=partial(cpu.dense_linear, dtype=torch.float32),
        embed=cpu.embed,
        rms_norm=cpu.rms_norm,
        silu_mul=cpu.silu_mul,
        rotate_and_store=cpu.rotate_and_store,
        paged_attention=cpu.paged_attention,
        decoder_layers=partial(cpu.decoder_layers, activations=activations),
        packed_shape=cpu_weights.PackedShape.of_gptq,
        pack_head=cpu_weights.pack_head,
        head_argmax=cpu.head_argmax,
    )
    if head_dim % 32 or head_dim > 256 or rotary_dim % 32:  # no published model: toys
        return replace(
            kernels,
            names={**kernels.names, "attention": REFERENCE.names["attention"]},
            rotate_and_store=REFERENCE.rotate_and_store,
            paged_attention=REFERENCE.paged_attention,
            decoder_layers=None,
        )
    return kernels


def _without_library() -> Kernels:
    reason = unavailable_reason()
    name = "torch int4 (about half of the memory's bandwidth; scales rounded to bf16)"
    return replace(
        REFERENCE,
        names={**REFERENCE.names, "quantized linear": f"{name}; {reason}"},
        prepare=int4_torch.prepare,
        quantized_linear=int4_torch.linear,
    )


def select_kernels(
    device: torch.device,
    dtype: torch.dtype,
    *,
    activations: str | None = None,
    head_dim: int = 128,
    rotary_dim: int = 128,
) -> Kernels:
    """The kernels for a model on this device and in this dtype; SettingError for an unknown kind of activations."""
    if activations not in (None, *ACTIVATIONS):
        raise SettingError(f"activations is {activations!r}; it must be {' or '.join(ACTIVATIONS)}")
    if device.type != "cpu" or dtype != torch.bfloat16:
        return REFERENCE
    library = native_library()
    if library is None:
        return _without_library()
    mode = cpu.Activations.__args__[ACTIVATIONS.index(activations)] if activations else DEFAULT_ACTIVATIONS
    return _native(library.isa, mode, head_dim, rotary_dim)


def describe_kernels(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Operation -> name of the kernel that serves it on this device; printed by `qwartet doctor`."""
    return select_kernels(device, dtype).names
