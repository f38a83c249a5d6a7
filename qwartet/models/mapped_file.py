"""Tensors of a checked safetensors file as its pages in memory, read-only and shared.

The safetensors library maps files privately and writable, which the system counts as memory that may be needed: it
refuses files larger than the memory there is. These are what streaming is for.
"""

from __future__ import annotations

import mmap
import warnings
from pathlib import Path

import torch
from torch import Tensor

from qwartet.models.safetensors_file import TensorInfo

_DTYPES = {"U8": torch.uint8, "I32": torch.int32, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class MappedFile:
    """A file whose header has been checked (`read_tensor_infos`). Writing to one of its tensors ends the process."""

    def __init__(self, path: Path) -> None:
        """OSError when it cannot be mapped."""
        self.path = path
        with path.open("rb") as file:
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._data = 8 + int.from_bytes(self._pages[:8], "little")

    def read(self, info: TensorInfo) -> Tensor:
        """The tensor where it lies."""
        dtype = _DTYPES[info.dtype]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            flat = torch.frombuffer(
                self._pages, dtype=dtype, count=info.nbytes // dtype.itemsize, offset=self._data + info.begin
            )
        return flat.view(info.shape)
