"""The tensors of a checkpoint that is still to be written or downloaded: names, dtypes and sizes, from its layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from qwartet.checkpoint.layout import Layout
from qwartet.quant_format.config import GptqConfig


class PlannedTensor(NamedTuple):
    """A tensor by its name on disk."""

    name: str
    dtype: str  # as safetensors names it: "F16", "BF16", "F32", "I32"
    shape: tuple[int, ...]
    nbytes: int


def planned_tensors(layout: Layout, gptq: GptqConfig | None, dtype: str) -> Iterator[PlannedTensor]:
    """All tensors in the order of the forward pass; `dtype` is that of the floats.

    In a GPTQ checkpoint every linear has a g_idx and a bias, as published.
    """
    for module in layout:
        if module.kind == "head" and layout.is_tied:
            continue
        settings = gptq if module.kind == "linear" else None
        for part, rows in module.parts:
            if settings is not None:
                yield from _gptq_tensors(part, rows, module.shape[1], settings, dtype)
            else:
                yield _tensor(f"{part}.weight", dtype, (rows, *module.shape[1:]))
            if settings is not None or module.needs_bias:
                yield _tensor(f"{part}.bias", dtype, (rows,))


def _gptq_tensors(
    part: str, out_features: int, in_features: int, gptq: GptqConfig, dtype: str
) -> Iterator[PlannedTensor]:
    group_size = in_features if gptq.group_size == -1 else min(gptq.group_size, in_features)
    num_groups = -(-in_features // group_size)
    yield _tensor(f"{part}.qweight", "I32", (in_features * gptq.bits // 32, out_features))
    yield _tensor(f"{part}.qzeros", "I32", (num_groups, out_features * gptq.bits // 32))
    yield _tensor(f"{part}.scales", dtype, (num_groups, out_features))
    yield _tensor(f"{part}.g_idx", "I32", (in_features,))


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> PlannedTensor:
    return PlannedTensor(name, dtype, shape, math.prod(shape) * (2 if dtype in ("F16", "BF16") else 4))
