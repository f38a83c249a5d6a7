"""The tensors that a loaded network will hold, known from the headers of its checkpoint before a tensor is read.

What the memory forecast adds up (plan.py), and what a weight cache has room for (weight_cache.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qwartet.kernels.cpu.weights import PackedShape, head_shape
from qwartet.kernels.select import Kernels
from qwartet.models.checkpoint import Checkpoint
from qwartet.models.config import ModelConfig
from qwartet.models.names import LINEARS, disk_name, module_names
from qwartet.quant_format.config import GptqConfig

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


@dataclass(frozen=True)
class LoadSettings:
    """What decides, beside the checkpoint, which tensors a network holds."""

    dtype: torch.dtype
    device: torch.device
    gptq: GptqConfig | None
    kernels: Kernels
    packs_head: bool  # keeps an 8-bit copy of lm_head


def gptq_shape(checkpoint: Checkpoint, module: str, settings: LoadSettings) -> PackedShape | None:
    """How the kernels will pack a GPTQ linear; None where they leave it as the file has it.

    From unchecked headers: tensors that are missing or contradict each other give None; reading says what is wrong.
    """
    gptq, name = settings.gptq, disk_name(module)
    if settings.kernels.packed_shape is None or gptq is None:
        return None
    if f"{name}.qweight" not in checkpoint or f"{name}.scales" not in checkpoint:
        return None
    qweight, scales = checkpoint.info(f"{name}.qweight").shape, checkpoint.info(f"{name}.scales").shape
    if len(qweight) != 2 or len(scales) != 2 or 0 in (*qweight, *scales):
        return None
    in_features = qweight[0] * (32 // gptq.bits)
    group_size = in_features if gptq.group_size == -1 else min(gptq.group_size, in_features)
    return settings.kernels.packed_shape(in_features, qweight[1], gptq.bits, group_size, scales[0], not gptq.sym)


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
    if module == "lm_head" and settings.packs_head and "lm_head.weight" in checkpoint:
        rows, columns = checkpoint.info("lm_head.weight").shape
        yield HeldTensor(module, "panels", torch.uint8, (head_shape(rows, columns).panels_bytes,), False)
        yield HeldTensor(module, "error_norms", torch.float32, (rows,), False)
        yield HeldTensor(module, "row_norms", torch.float32, (rows,), False)


def _of_quantized(checkpoint: Checkpoint, module: str, settings: LoadSettings) -> Iterator[HeldTensor]:
    name, shape = disk_name(module), gptq_shape(checkpoint, module, settings)
    if shape is None:
        for leaf in _GPTQ_LEAVES:
            if f"{name}.{leaf}" in checkpoint:
                info = checkpoint.info(f"{name}.{leaf}")
                yield HeldTensor(module, leaf, FLOAT_DTYPES.get(info.dtype, torch.int32), info.shape, True)
        return
    yield HeldTensor(module, "panels", torch.uint8, (shape.panels_bytes,), False)
    if f"{name}.bias" in checkpoint:
        yield HeldTensor(module, "bias", torch.float32, (shape.bias_size,), False)
    if settings.gptq is not None and settings.gptq.desc_act:
        yield HeldTensor(module, "order", torch.int32, (shape.in_features,), False)
