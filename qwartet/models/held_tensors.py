"""The tensors that a loaded network will hold, known from the headers of its checkpoint before a tensor is read.

What the memory forecast adds up (plan.py), and what a weight cache has room for (weight_cache.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qwartet.kernels.backend import Backend, TensorSpec
from qwartet.models.checkpoint import Checkpoint
from qwartet.models.config import ModelConfig
from qwartet.models.names import LINEARS, disk_name, module_names
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedShape

FLOAT_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_GPTQ_LEAVES = ("qweight", "qzeros", "scales", "g_idx", "bias")


@dataclass(frozen=True)
class HeldTensor:
    """One tensor of a module of the network."""

    module: str  # "layers.3.mlp.up"
    leaf: str  # "weight", "bias", "panels", ...
    dtype: torch.dtype
    shape: tuple[int, ...]
    is_in_file: bool  # whether the checkpoint holds it as it is, so that it can be mapped from there

    @property
    def name(self) -> str:
        return f"{self.module}.{self.leaf}"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_prepared_head(self) -> bool:
        """Whether it belongs to the head's copy, and not to the head."""
        return self.module == "lm_head" and self.leaf not in ("weight", "bias")


@dataclass(frozen=True)
class LoadSettings:
    """What decides, beside the checkpoint, which tensors a network holds."""

    dtype: torch.dtype
    device: torch.device
    gptq: GptqConfig | None
    backend: Backend
    prepares_head: bool  # keeps the copy of lm_head that finds its largest logit sooner


def quantized_shape(checkpoint: Checkpoint, module: str, gptq: GptqConfig) -> QuantizedShape | None:
    """The shape of a GPTQ linear by its headers, which nobody has checked: None where tensors are missing or odd.

    Reading the linear says what is wrong with it.
    """
    name = disk_name(module)
    if f"{name}.qweight" not in checkpoint or f"{name}.scales" not in checkpoint:
        return None
    qweight, scales = checkpoint.info(f"{name}.qweight").shape, checkpoint.info(f"{name}.scales").shape
    if len(qweight) != 2 or len(scales) != 2 or 0 in (*qweight, *scales):
        return None
    in_features = qweight[0] * (32 // gptq.bits)
    return QuantizedShape(
        in_features=in_features,
        out_features=qweight[1],
        bits=gptq.bits,
        group_size=in_features if gptq.group_size == -1 else min(gptq.group_size, in_features),
        num_groups=scales[0],
        sym=gptq.sym,
        has_bias=f"{name}.bias" in checkpoint,
        has_order=gptq.desc_act,
    )


def held_tensors(checkpoint: Checkpoint, config: ModelConfig, settings: LoadSettings) -> Iterator[HeldTensor]:
    """All of them, in the order of the forward pass.

    A bias of zeros and an act-order that changes nothing are counted and not kept: it takes reading to know them.
    """
    for module in module_names(config.num_layers):
        if settings.gptq is not None and module.endswith(LINEARS):
            yield from _of_quantized(checkpoint, module, settings)
        else:
            yield from _of_dense(checkpoint, module, settings)


def _of_dense(checkpoint: Checkpoint, module: str, settings: LoadSettings) -> Iterator[HeldTensor]:
    for leaf in ("weight", "bias"):
        name = f"{disk_name(module)}.{leaf}"
        if name in checkpoint:
            info = checkpoint.info(name)
            is_in_file = FLOAT_DTYPES.get(info.dtype) == settings.dtype
            yield HeldTensor(module, leaf, settings.dtype, info.shape, is_in_file)
    if module == "lm_head" and "lm_head.weight" in checkpoint:
        for spec in head_specs(checkpoint.info("lm_head.weight").shape, settings):
            yield HeldTensor(module, spec.leaf, spec.dtype, spec.shape, False)


def head_specs(shape: tuple[int, ...], settings: LoadSettings) -> tuple[TensorSpec, ...]:
    """The tensors of the head's prepared copy; none where there is no such copy."""
    return (settings.backend.head_specs(*shape) or ()) if settings.prepares_head else ()


def _of_quantized(checkpoint: Checkpoint, module: str, settings: LoadSettings) -> Iterator[HeldTensor]:
    assert settings.gptq is not None, module
    name, shape = disk_name(module), quantized_shape(checkpoint, module, settings.gptq)
    specs = None if shape is None else settings.backend.weight_specs(shape)
    if specs is not None:
        yield from (HeldTensor(module, spec.leaf, spec.dtype, spec.shape, False) for spec in specs)
        return
    for leaf in _GPTQ_LEAVES:
        if f"{name}.{leaf}" in checkpoint:
            info = checkpoint.info(f"{name}.{leaf}")
            yield HeldTensor(module, leaf, FLOAT_DTYPES.get(info.dtype, torch.int32), info.shape, True)
