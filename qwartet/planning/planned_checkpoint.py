"""A checkpoint that is not on this machine: its headers alone, for planning its memory before a download."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qwartet.checkpoint.planned_tensors import PlannedTensor
from qwartet.checkpoint.safetensors_file import TensorInfo
from qwartet.checkpoint.shards import Checkpoint


class PlannedCheckpoint(Checkpoint):
    """The names, dtypes and shapes of a checkpoint; nothing can be read from it."""

    def __init__(self, name: str, tensors: Iterable[PlannedTensor]) -> None:
        self.directory = Path(name)
        self.load_mode = "mmap"
        self._open = {}
        self.tensors = {
            tensor.name: TensorInfo(tensor.name, tensor.dtype, tensor.shape, 0, tensor.nbytes, self.directory)
            for tensor in tensors
        }
