"""A checkpoint that is not on this machine: headers alone, to plan its memory with before a download."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qwartet.checkpoint.safetensors_file import TensorInfo
from qwartet.checkpoint.shards import Checkpoint


class PlannedCheckpoint(Checkpoint):
    """The names, dtypes and shapes of a checkpoint; nothing can be read from it."""

    def __init__(self, name: str, tensors: Iterable[tuple[str, str, tuple[int, ...], int]]) -> None:
        """`tensors`: name on disk, dtype ("F16", "BF16", "I32"), shape and bytes of each."""
        self.directory = Path(name)
        self.load_mode = "mmap"
        self._open = {}
        self.tensors = {
            tensor: TensorInfo(tensor, dtype, shape, 0, num_bytes, self.directory)
            for tensor, dtype, shape, num_bytes in tensors
        }
