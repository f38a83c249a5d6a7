"""The activations of the calibration between two steps: the hidden states, and the inputs of the next linear.

They stay in memory, or in files of a directory that is removed at the end: a batch is read when its turn comes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from qwartet.checkpoint.directory import cannot_read
from qwartet.checkpoint.writer import writing
from qwartet.errors import CheckpointError
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.quantize.writer import HINT


@dataclass(frozen=True)
class CalibrationBatch:
    """Some calibration examples that go through a block together."""

    batch: ForwardBatch
    first_example: int

    @property
    def num_tokens(self) -> int:
        return len(self.batch.input_ids)

    def place_of(self, row: int) -> tuple[int, int]:
        """The calibration example that a row [T] belongs to, and the number of the token in it."""
        bounds = self.batch.cu_seqlens.tolist()
        number = next(number for number, end in enumerate(bounds[1:]) if row < end)
        return self.first_example + number, row - bounds[number]


class Activations:
    """Tensors by name and batch, on the CPU; with `directory`, in files there. A context manager."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._held: dict[tuple[str, int], Tensor] = {}
        self._stored: dict[tuple[str, int], tuple[torch.dtype, Sequence[int]]] = {}

    def __enter__(self) -> Self:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)  # left by a killed run
            with writing(self._directory, HINT):
                self._directory.mkdir(parents=True)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def put(self, name: str, number: int, value: Tensor) -> None:
        """Keeps the tensor of a batch in place of the earlier one; CheckpointError where the disk refuses."""
        value = value.cpu()
        if self._directory is None:
            self._held[name, number] = value
            return
        path = self._path(name, number)
        with writing(path, HINT), path.open("wb") as file:
            file.write(value.contiguous().view(torch.uint8).numpy().data)
        self._stored[name, number] = value.dtype, value.shape

    def get(self, name: str, number: int) -> Tensor:
        """The tensor of a batch; it must not be changed. CheckpointError for a file that has changed."""
        if self._directory is None:
            return self._held[name, number]
        path, (dtype, shape) = self._path(name, number), self._stored[name, number]
        value = torch.empty(tuple(shape), dtype=dtype)
        try:
            with path.open("rb") as file:
                count = file.readinto(value.view(torch.uint8).numpy().data)
        except OSError as error:
            raise cannot_read(path, error) from None
        if count != value.nbytes:
            raise CheckpointError(path, f"holds {count} of {value.nbytes} bytes", hint="run the same command again")
        return value

    def drop(self, name: str) -> None:
        """Forgets the tensors of this name; their files are overwritten by the next ones."""
        for key in [key for key in self._held if key[0] == name]:
            del self._held[key]

    def _path(self, name: str, number: int) -> Path:
        assert self._directory is not None
        return self._directory / f"{name}-{number:05}.bin"
