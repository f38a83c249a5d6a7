"""Writes tensors that are made one by one into shards: only one of them, or a part of it, is in memory at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qwartet.checkpoint.safetensors_file import DTYPE_NAMES, DTYPES
from qwartet.checkpoint.weight_files import INDEX_NAME
from qwartet.checkpoint.writer import DEFAULT_SHARD_BYTES, flush, plan_shards, write_json, writing

OnBytes = Callable[[int, int], None]
"""Called with the bytes written since the last call, and the total."""


@dataclass(frozen=True)
class NewTensor:
    """A tensor of the new checkpoint, made only when it is written."""

    name: str
    dtype: str  # as safetensors names it: "F16", "BF16", "F32", "I32"
    shape: tuple[int, ...]
    make: Callable[[], Tensor | Iterable[Tensor]]  # the whole, or rows one after another

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype].itemsize


def stream_shards(
    output: Path,
    tensors: Sequence[NewTensor],
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    on_bytes: OnBytes | None = None,
) -> list[str]:
    """Writes tensors in their order, as model.safetensors or as shards with an index; returns the names of the files.

    CheckpointError when the disk refuses.
    """
    shards = plan_shards(tensors, max_shard_bytes)
    total = sum(tensor.nbytes for tensor in tensors)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(output / file, _aligned(shard), on_bytes, total)
        weight_map.update({tensor.name: file for tensor in shard})
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(output / INDEX_NAME, index)
    return sorted(set(weight_map.values()))


def _aligned(shard: Sequence[NewTensor]) -> Sequence[NewTensor]:
    """The tensors in an order in which each begins at a multiple of its element's size, as readers that map need it."""
    place = 0
    for tensor in shard:
        if place % tensor.itemsize:
            return sorted(shard, key=lambda tensor: -tensor.itemsize)
        place += tensor.nbytes
    return shard


def _write(path: Path, tensors: Sequence[NewTensor], on_bytes: OnBytes | None, total: int) -> None:
    begin, header = 0, {"__metadata__": {"format": "pt"}}
    entries = {}
    for tensor in tensors:
        offsets = [begin, begin + tensor.nbytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        begin = offsets[1]
    text = json.dumps({**header, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with writing(path), path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            made = tensor.make()
            rows = 0
            for part in (made,) if isinstance(made, Tensor) else made:
                found = DTYPE_NAMES[part.dtype], tuple(part.shape[1:])
                assert found == (tensor.dtype, tensor.shape[1:]), (tensor.name, found, tensor.dtype, tensor.shape)
                rows += len(part)
                file.write(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                if on_bytes is not None:
                    on_bytes(part.nbytes, total)
            assert rows == tensor.shape[0], (tensor.name, rows, tensor.shape)
        file.flush()
        os.fsync(file.fileno())
    flush(path.parent)
