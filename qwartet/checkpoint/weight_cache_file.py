"""Writes the file of a weight cache, repacking one module at a time to bound the memory.

A safetensors file. Tensors whose size is a multiple of 64 bytes come first, after a header of whole pages, and so
begin at multiples of 64.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from qwartet.checkpoint.cache_directory import locked_write
from qwartet.checkpoint.held_tensors import HeldTensor
from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.quantized_linears import is_quantized
from qwartet.checkpoint.safetensors_file import DTYPE_NAMES
from qwartet.checkpoint.weights import Weights

OnPacked = Callable[[int, int], None]
"""Called with the number of bytes just repacked and the total."""

ALIGNMENT = 64  # bytes
PAGE = 4096  # bytes


def cache_header(made: list[HeldTensor]) -> bytes:
    """The head of the file: length, JSON, spaces up to a whole page."""
    begin, entries = 0, {}
    for tensor in sorted(made, key=lambda tensor: tensor.nbytes % ALIGNMENT != 0):
        end = begin + tensor.nbytes
        entries[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return len(text).to_bytes(8, "little") + text


def write_cache(
    path: Path,
    header: bytes,
    made: list[HeldTensor],
    weights: Weights,
    layout: Layout,
    on_packed: OnPacked | None = None,
) -> None:
    """Writes the tensors `made` of `weights` behind their `cache_header`; the file appears complete or not at all."""
    places = {name: entry["data_offsets"][0] + len(header) for name, entry in json.loads(header[8:]).items()}
    total = sum(tensor.nbytes for tensor in made)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked_write(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(header)
        for module in dict.fromkeys(tensor.module for tensor in made):
            wanted = {tensor.leaf: tensor for tensor in made if tensor.module == module}
            for leaf, tensor in _tensors(weights, layout[module], wanted):
                held = wanted[leaf]
                assert (tensor.dtype, tuple(tensor.shape)) == (held.dtype, held.shape), (held, tensor.dtype)
                file.seek(places[held.name])
                file.write(tensor.contiguous().view(torch.uint8).numpy().data)
                if on_packed is not None:
                    on_packed(held.nbytes, total)
        file.flush()
        os.fsync(file.fileno())  # the file has no checksum: its name must not appear before its contents are safe


def _tensors(weights: Weights, module: ModuleSpec, wanted: dict[str, HeldTensor]) -> Iterator[tuple[str, Tensor]]:
    """What a module keeps in a cache: leaf -> tensor."""
    if any(tensor.is_prepared_head for tensor in wanted.values()):
        head = weights.prepared_head(weights.dense(module, "weight"))
        assert head is not None, "the settings promised an 8-bit output head"
        found = dict(head.tensors)
    elif is_quantized(module, weights.settings.gptq):
        found = weights.settings.backend.export_weight(weights.quantized(module))
    else:
        found = {leaf: weights.dense(module, leaf) for leaf in wanted}
    yield from ((leaf, tensor) for leaf, tensor in found.items() if leaf in wanted)
