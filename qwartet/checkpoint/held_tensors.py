"""The tensors that a loaded network will hold, known from the headers of its checkpoint before a tensor is read.

The memory estimate adds them up (plan.py), and a weight cache has room for them (weight_cache.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.safetensors_file import DTYPES
from qwartet.checkpoint.shards import Checkpoint
from qwartet.kernels.backend import Backend, TensorSpec
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedShape

_GPTQ_LEAVES = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class HeldTensor:
    """One tensor of a module of the network."""

    module: str  # "layers.3.mlp.up"
    leaf: str  # "weight", "bias", "panels", ...
    dtype: torch.dtype
    shape: tuple[int, ...]
    is_in_file: bool  # whether the checkpoint holds it in this form, so that it can be memory-mapped

    @property
    def name(self) -> str:
        return f"{self.module}.{self.leaf}"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_prepared_head(self) -> bool:
        """Whether it belongs to the 8-bit output head, not to lm_head itself."""
        return self.module == "lm_head" and self.leaf not in ("weight", "bias")


@dataclass(frozen=True)
class LoadSettings:
    """What decides, besides the checkpoint, which tensors a network holds."""

    dtype: torch.dtype
    device: torch.device
    gptq: GptqConfig | None
    backend: Backend
    prepares_head: bool  # adds the 8-bit output head, which finds the largest logit faster


def quantized_shape(checkpoint: Checkpoint, module: ModuleSpec, gptq: GptqConfig) -> QuantizedShape | None:
    """The shape of a GPTQ linear from its unchecked headers; None if tensors are missing or malformed.

    Reading the linear reports what is wrong with it.
    """
    names = [*module.disk_names("qweight"), *module.disk_names("scales")]
    if not all(name in checkpoint for name in names):
        return None
    shapes = [checkpoint.info(name).shape for name in names]
    if any(len(shape) != 2 or 0 in shape for shape in shapes):
        return None
    in_features, out_features = shapes[0][0] * (32 // gptq.bits), sum(shape[1] for shape in shapes[: len(module.parts)])
    return QuantizedShape(
        in_features=in_features,
        out_features=out_features,
        bits=gptq.bits,
        group_size=in_features if gptq.group_size == -1 else min(gptq.group_size, in_features),
        num_groups=shapes[-1][0],
        sym=gptq.sym,
        has_bias=module.has_bias(checkpoint),
        has_order=gptq.desc_act,
    )


def held_tensors(checkpoint: Checkpoint, layout: Layout, settings: LoadSettings) -> Iterator[HeldTensor]:
    """All of them, in the order of the forward pass.

    A bias of zeros and an act-order that changes nothing are counted but not kept: only reading reveals them.
    """
    for module in layout:
        if settings.gptq is not None and module.kind == "linear":
            yield from _of_quantized(checkpoint, module, settings, settings.gptq)
        elif not (module.kind == "head" and layout.is_tied):
            yield from _of_dense(checkpoint, module, settings)
        if module.kind == "head" and module.disk_names("weight")[0] in checkpoint:
            for spec in head_specs(checkpoint.info(module.disk_names("weight")[0]).shape, settings):
                yield HeldTensor(module.name, spec.leaf, spec.dtype, spec.shape, False)


def _of_dense(checkpoint: Checkpoint, module: ModuleSpec, settings: LoadSettings) -> Iterator[HeldTensor]:
    for leaf in ("weight", *(["bias"] if module.has_bias(checkpoint) else [])):
        names = module.disk_names(leaf)
        if all(name in checkpoint for name in names):
            infos = [checkpoint.info(name) for name in names]
            is_in_file = len(infos) == 1 and DTYPES[infos[0].dtype] == settings.dtype
            shape = (sum(info.shape[0] for info in infos), *infos[0].shape[1:])
            yield HeldTensor(module.name, leaf, settings.dtype, shape, is_in_file)


def head_specs(shape: tuple[int, ...], settings: LoadSettings) -> tuple[TensorSpec, ...]:
    """The tensors of the 8-bit output head; none if there is no such head."""
    return (settings.backend.head_specs(*shape) or ()) if settings.prepares_head else ()


def _of_quantized(
    checkpoint: Checkpoint, module: ModuleSpec, settings: LoadSettings, gptq: GptqConfig
) -> Iterator[HeldTensor]:
    shape = quantized_shape(checkpoint, module, gptq)
    specs = None if shape is None else settings.backend.weight_specs(shape)
    if specs is not None:
        yield from (HeldTensor(module.name, spec.leaf, spec.dtype, spec.shape, False) for spec in specs)
        return
    for leaf in (*_GPTQ_LEAVES, *(["bias"] if module.has_bias(checkpoint) else [])):
        infos = [checkpoint.info(name) for name in module.disk_names(leaf) if name in checkpoint]
        if infos:
            dtype = torch.float16 if leaf == "scales" else DTYPES[infos[0].dtype]
            is_in_file = len(module.parts) == 1 and DTYPES[infos[0].dtype] == dtype
            rows = infos[0].shape[:-1]
            shape_of_all = (*rows, sum(info.shape[-1] for info in infos)) if leaf != "g_idx" else infos[0].shape
            yield HeldTensor(module.name, leaf, dtype, shape_of_all, is_in_file)
