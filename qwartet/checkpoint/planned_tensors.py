"""The tensors of a checkpoint that is still to be written or downloaded: names, dtypes and sizes, from its layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.quantized_linears import is_quantized
from qwartet.quant_format.config import GptqConfig

_INTEGERS = ("qweight", "qzeros", "g_idx")


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
        for part, rows in module.parts:
            leaves: dict[str, tuple[int, ...]] = {"weight": (rows, *module.shape[1:])}
            if gptq is not None and is_quantized(module, gptq):
                leaves = gptq.file_shapes(module.shape[1], rows)
            if module.needs_bias:
                leaves["bias"] = (rows,)
            for leaf, shape in leaves.items():
                yield _tensor(f"{part}.{leaf}", "I32" if leaf in _INTEGERS else dtype, shape)


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> PlannedTensor:
    return PlannedTensor(name, dtype, shape, math.prod(shape) * (2 if dtype in ("F16", "BF16") else 4))
