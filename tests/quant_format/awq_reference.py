"""AWQ's packing ("gemm"), one integer at a time and from its description alone: what the fast code is tested against.

A word holds eight outputs of one row. Its nibbles, low bits first, are the outputs 0, 2, 4, 6, 1, 3, 5, 7 of the eight.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwartet.models.load import load_gptq_config
from qwartet.quant_format.awq_config import AwqConfig
from qwartet.quant_format.weight import QuantizedWeight
from tests.models.broken import edit_json

NIBBLES = [0, 2, 4, 6, 1, 3, 5, 7]


def pack(integers: Tensor) -> Tensor:
    """Integers [R, N] of 0 to 15 as words int32 [R, N / 8]."""
    rows = []
    for row in integers.tolist():
        words = []
        for start in range(0, len(row), 8):
            word = sum(row[start + output] << 4 * nibble for nibble, output in enumerate(NIBBLES))
            words.append(word - 2**32 if word >= 2**31 else word)
        rows.append(words)
    return torch.tensor(rows, dtype=torch.int32)


def unpack(words: Tensor) -> Tensor:
    """The inverse: integers uint8 [R, 8 C] of words int32 [R, C]."""
    rows = []
    for row in words.tolist():
        integers = [0] * 8 * len(row)
        for index, word in enumerate(row):
            for nibble, output in enumerate(NIBBLES):
                integers[8 * index + output] = (word >> 4 * nibble) & 15
        rows.append(integers)
    return torch.tensor(rows, dtype=torch.uint8)


def dequantize(tensors: dict[str, Tensor], group_size: int) -> Tensor:
    """The matrix [K, N] of a linear, in float64."""
    group = torch.arange(len(tensors["qweight"])) // group_size
    distance = unpack(tensors["qweight"]).double() - unpack(tensors["qzeros"]).double()[group]
    return distance * tensors["scales"].double()[group]


def awq_tensors(weight: QuantizedWeight) -> dict[str, Tensor]:
    """What an AWQ file holds of a linear whose inputs are in order."""
    assert weight.bits == 4 and weight.g_idx is None
    found = {"qweight": pack(weight.codes()), "qzeros": pack(weight.zeros()), "scales": weight.scales}
    return found if weight.bias is None else {**found, "bias": weight.bias}


def make_awq(directory: Path, *, floats: tuple[str, ...] = (), **changes: object) -> Path:
    """Rewrites a tiny GPTQ checkpoint as AWQ, in place; linears with one of `floats` in their name become floats.

    `changes` are those of quantization_config. Biases that are zero are left out, as AutoAWQ does.
    """
    gptq = load_gptq_config(directory)
    assert gptq is not None
    tensors = load_file(directory / "model.safetensors")
    for name in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
        leaves = ("qweight", "qzeros", "scales", "g_idx", "bias")
        stored = {leaf: tensors.pop(f"{name}.{leaf}") for leaf in leaves if f"{name}.{leaf}" in tensors}
        if not stored["bias"].any():
            del stored["bias"]
        weight = QuantizedWeight.from_tensors(stored, gptq, name=name, path=directory)
        found = awq_tensors(weight)
        if any(part in name for part in floats):
            bias = {} if weight.bias is None else {"bias": weight.bias}
            found = {"weight": weight.dequantize(torch.float16), **bias}
        tensors |= {f"{name}.{leaf}": tensor.contiguous() for leaf, tensor in found.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = AwqConfig.of(gptq.group_size, floats=floats).to_quantization_config()
    edit_json(directory / "config.json", {"quantization_config": {**config, **changes}})
    (directory / "quantize_config.json").unlink()
    return directory
