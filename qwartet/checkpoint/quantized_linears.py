"""Which linears of a quantised checkpoint are quantised? AWQ may leave some as floats."""

from __future__ import annotations

from dataclasses import replace

from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.shards import Checkpoint
from qwartet.quant_format.awq_config import AwqConfig
from qwartet.quant_format.config import GptqConfig


def is_quantized(module: ModuleSpec, gptq: GptqConfig | None) -> bool:
    """Whether a module, or a part of it, is stored as codes."""
    return gptq is not None and module.kind == "linear" and any(gptq.quantizes(part) for part, _rows in module.parts)


def as_stored(gptq: GptqConfig | None, checkpoint: Checkpoint, layout: Layout) -> GptqConfig | None:
    """The config, with the linears that the file holds as floats.

    The tensors decide, since writers and engines disagree on how modules_to_not_convert matches names; the config does
    where a linear has neither kind of tensor.
    """
    if not isinstance(gptq, AwqConfig):
        return gptq
    parts = [part for module in layout if module.kind == "linear" for part, _rows in module.parts]
    without_codes = (part for part in parts if f"{part}.qweight" not in checkpoint)
    floats = [part for part in without_codes if f"{part}.weight" in checkpoint or not gptq.quantizes(part)]
    return replace(gptq, modules_to_not_convert=tuple(floats))
