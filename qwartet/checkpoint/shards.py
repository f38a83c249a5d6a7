"""A checkpoint directory: which file holds which tensor, checked before a byte of a tensor is read.

Only safetensors. A directory has one `model.safetensors`, or shards with `model.safetensors.index.json`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.safetensors_file import LoadMode, SafetensorsFile, TensorInfo, read_tensor_infos, shown
from qwartet.errors import CheckpointError, CheckpointWarning

INDEX_NAME = "model.safetensors.index.json"
_SHARD_NAME = re.compile(r"\w[\w.-]{0,200}\.safetensors", re.ASCII)
_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}


def listed(names: list[str], most: int = 10) -> str:
    """The first names of a list, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def _checked_shard(directory: Path, name: Any) -> Path:
    """Path of a shard; refuses everything that is not a plain .safetensors file in the directory."""
    if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
        reason = f"names the file {shown(name)}, which is not a plain name of a .safetensors file"
        raise CheckpointError(directory / INDEX_NAME, reason)
    path = directory / name
    try:
        target, home = path.resolve(), directory.resolve()
    except (OSError, RuntimeError):  # RuntimeError: links that lead in a circle
        raise CheckpointError(path, "is a link that leads nowhere", hint="fetch this file again") from None
    # A Hugging Face cache keeps snapshots/<commit>/file as a link to ../../blobs/<hash>, and that one may be a link to
    # ../../blobs/<2 digits>/<hash> of the whole cache: these are allowed.
    is_in_cache = home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs"
    is_shared = home.parent.name == "snapshots" and target.parent.parent == home.parent.parent.parent / "blobs"
    if target.parent != home and not is_in_cache and not is_shared:
        raise CheckpointError(path, "is a link to a file outside the checkpoint", hint="put the file itself there")
    return path


def _shards_of_index(directory: Path) -> dict[str, Path]:
    """Tensor name -> file, from the index; CheckpointError when files are missing."""
    index_path = directory / INDEX_NAME
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(index_path, "has no weight_map", hint="fetch this file again")
    shards = {name: _checked_shard(directory, file) for name, file in weight_map.items()}
    files = sorted(set(shards.values()))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        reason = f"{len(missing)} of {len(files)} shards missing: {listed(missing)}"
        raise CheckpointError(directory, reason, hint="fetch them (a download that stopped can be resumed)")
    return shards


def _single_file(directory: Path) -> Path:
    path = directory / "model.safetensors"
    if path.is_file():
        return _checked_shard(directory, path.name)
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return _checked_shard(directory, found[0].name)
    if found:
        names = [file.name for file in found]
        raise CheckpointError(directory, f"{listed(names)} without {INDEX_NAME}", hint="fetch the index file too")
    if any(file.suffix in _PICKLE_SUFFIXES for file in directory.iterdir()):
        reason = "holds only pickled weights, which can run code when loaded; Qwartet never loads them"
        raise CheckpointError(directory, reason, hint="convert them with safetensors' own converter, in a sandbox")
    raise CheckpointError(directory, "holds no .safetensors file", hint="is this the directory of a checkpoint?")


class Checkpoint:
    """The tensors of a directory, by their names on disk; reads them one by one."""

    def __init__(self, directory: Path, load_mode: LoadMode = "mmap") -> None:
        self.directory = directory
        self.load_mode = load_mode
        self._open: dict[Path, SafetensorsFile] = {}
        if (directory / INDEX_NAME).is_file():
            self.tensors = self._indexed(_shards_of_index(directory))
        else:
            self.tensors = read_tensor_infos(_single_file(directory))

    def _indexed(self, shards: dict[str, Path]) -> dict[str, TensorInfo]:
        found: dict[str, TensorInfo] = {}
        for file in sorted(set(shards.values())):
            infos = read_tensor_infos(file)
            absent = [name for name, shard in shards.items() if shard == file and name not in infos]
            if absent:
                reason = f"the index says that it holds {listed(absent)}; it does not"
                raise CheckpointError(file, reason, hint="index and shards do not belong together; fetch both again")
            found |= {name: info for name, info in infos.items() if shards.get(name) == file}
            strays = [name for name in infos if name not in shards]
            if strays:
                warnings.warn(f"{file}: not in the index, ignored: {listed(strays)}", CheckpointWarning, stacklevel=4)
        self._check_total_size(found)
        return found

    def _check_total_size(self, found: dict[str, TensorInfo]) -> None:
        metadata = read_json(self.directory / INDEX_NAME).get("metadata")
        total = metadata.get("total_size") if isinstance(metadata, dict) else None
        actual = sum(info.nbytes for info in found.values())
        if total is not None and total != actual:
            message = f"{self.directory / INDEX_NAME}: total_size is {total}, the tensors take {actual} bytes"
            warnings.warn(message, CheckpointWarning, stacklevel=5)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def files(self) -> list[Path]:
        return sorted({info.file for info in self.tensors.values()})

    def __contains__(self, name: str) -> bool:
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
