"""A checkpoint directory: which file holds which tensor, checked before a byte of a tensor is read.

Only safetensors: one file, or shards with an index (weight_files.py finds them).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.safetensors_file import LoadMode, SafetensorsFile, TensorInfo, read_tensor_infos, shown
from qwartet.checkpoint.weight_files import find_weights, listed
from qwartet.errors import CheckpointError, CheckpointWarning

_SHARD_NAME = re.compile(r"\w[\w.-]{0,200}\.safetensors", re.ASCII)


def _checked_shard(index: Path, name: Any) -> Path:
    """Path of a shard; refuses everything that is not a plain name of a .safetensors file beside the index."""
    if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
        raise CheckpointError(index, f"names the file {shown(name)}, which is not a plain name of a .safetensors file")
    return index.with_name(name)


def _shards_of_index(index: Path) -> dict[Path, list[str]]:
    """File -> names of its tensors, from the index; CheckpointError when files are missing."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(index, "has no weight_map", hint="fetch this file again")
    by_name: dict[Any, list[str]] = {}
    for tensor, file in weight_map.items():
        by_name.setdefault(file if isinstance(file, str) else shown(file), []).append(tensor)
    shards = {_checked_shard(index, file): tensors for file, tensors in sorted(by_name.items())}
    missing = [file.name for file in shards if not has_file(file)]
    if missing:
        reason = f"{len(missing)} of {len(shards)} shards missing: {listed(missing)}"
        raise CheckpointError(index.parent, reason, hint="fetch them (an interrupted download can be resumed)")
    return shards


class Checkpoint:
    """The tensors of a directory, by their names on disk; reads them one by one."""

    def __init__(self, directory: Path, load_mode: LoadMode = "mmap") -> None:
        self.directory = directory
        self.load_mode = load_mode
        self._open: dict[Path, SafetensorsFile] = {}
        weights = find_weights(directory)
        self.index = weights if weights.suffix == ".json" else None
        self.tensors = read_tensor_infos(weights) if self.index is None else self._indexed(self.index)

    def _indexed(self, index: Path) -> dict[str, TensorInfo]:
        found: dict[str, TensorInfo] = {}
        shards = _shards_of_index(index)
        indexed = {name for names in shards.values() for name in names}
        for file, names in shards.items():
            infos = read_tensor_infos(file)
            absent = [name for name in names if name not in infos]
            if absent:
                reason = f"lacks {listed(absent)}, which the index lists in it"
                raise CheckpointError(file, reason, hint="index and shards do not belong together; fetch both again")
            own = set(names)
            found |= {name: info for name, info in infos.items() if name in own}
            strays = [name for name in infos if name not in indexed]
            if strays:
                warnings.warn(f"{file}: not in the index, ignored: {listed(strays)}", CheckpointWarning, stacklevel=4)
        self._check_total_size(index, found)
        return found

    def _check_total_size(self, index: Path, found: dict[str, TensorInfo]) -> None:
        metadata = read_json(index).get("metadata")
        total = metadata.get("total_size") if isinstance(metadata, dict) else None
        actual = sum(info.nbytes for info in found.values())
        if total is not None and total != actual:
            message = f"{index}: total_size is {total}, the tensors take {actual} bytes"
            warnings.warn(message, CheckpointWarning, stacklevel=5)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def files(self) -> list[Path]:
        return sorted({info.file for info in self.tensors.values()})

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def info(self, name: str) -> TensorInfo:
        """Header entry of a tensor; CheckpointError when there is none."""
        if name not in self.tensors:
            raise CheckpointError(self.directory, "tensor is missing", tensor=name, hint="fetch the checkpoint again")
        return self.tensors[name]

    def read(self, name: str, part: tuple[slice, ...] = ()) -> Tensor:
        """The tensor, or a part of it, on the CPU in the file's dtype; mapped, not copied, in "mmap" mode.

        In "pread" mode only the part is read.
        """
        info = self.info(name)
        if info.file not in self._open:
            self._open[info.file] = SafetensorsFile(info.file, self.load_mode)
        return self._open[info.file].read(info, part)
