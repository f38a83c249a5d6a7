"""Weights of a run on disk: full models in the published layout, adapters as PEFT saves them.

The trainer passes the parameters that it trains, by their names in the model, and gets them back by these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from qwartet.checkpoint.adapter import ADAPTER_WEIGHTS
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.writer import StoredTensor, copy_files, save_tensors, write_json, write_shards
from qwartet.finetune.training_state import read_tensors

_FLAGS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class WeightFiles(Protocol):
    """How the trained parameters of a model are stored."""

    def write(self, directory: Path, parameters: Mapping[str, Tensor], *, is_result: bool) -> None:
        """Writes a directory that can be loaded; the result of a run, or a checkpoint from which it resumes exactly."""

    def read(self, directory: Path) -> dict[str, Tensor]:
        """The parameters of a checkpoint; CheckpointError if they cannot be read."""


@dataclass(frozen=True)
class FullModel:
    """A model that `qwartet chat DIRECTORY` runs; `base` is the directory that its other files are copied from.

    Checkpoints keep the fp32 parameters, the result is rounded to `dtype` once.
    """

    base: Path
    dtype: torch.dtype

    def write(self, directory: Path, parameters: Mapping[str, Tensor], *, is_result: bool) -> None:
        dtype = self.dtype if is_result else torch.float32
        directory.mkdir(parents=True, exist_ok=True)
        write_shards(directory, [_stored(name, tensor, dtype) for name, tensor in parameters.items()])
        flags = {flag: known == dtype for known, flag in _FLAGS.items()}
        config = read_json(self.base / "config.json") | flags | {"torch_dtype": str(dtype).removeprefix("torch.")}
        write_json(directory / "config.json", config)
        copy_files(self.base, directory)

    def read(self, directory: Path) -> dict[str, Tensor]:
        checkpoint = Checkpoint(directory)
        return {name: checkpoint.read(name) for name in checkpoint}


@dataclass(frozen=True)
class AdapterFiles:
    """adapter_config.json and adapter_model.safetensors; `config` is PEFT's."""

    config: Any

    def write(self, directory: Path, parameters: Mapping[str, Tensor], *, is_result: bool) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {stored_name(name): tensor.detach().cpu().contiguous() for name, tensor in parameters.items()}
        save_tensors(directory / ADAPTER_WEIGHTS, tensors, {"format": "pt"})
        write_json(directory / ADAPTER_CONFIG, _json_of(self.config.to_dict()) | {"inference_mode": True})

    def read(self, directory: Path) -> dict[str, Tensor]:
        return {_parameter_name(name): tensor for name, tensor in read_tensors(directory / ADAPTER_WEIGHTS).items()}


def stored_name(parameter: str) -> str:
    """Name in PEFT's files of a parameter of its model: without wrappers and the adapter's name."""
    return parameter.replace(".modules_to_save.default.", ".").replace(".default.", ".")


def _parameter_name(stored: str) -> str:
    for matrix in (".lora_A.", ".lora_B."):
        if matrix in stored:
            return stored.replace(matrix, f"{matrix}default.")
    module, _, leaf = stored.rpartition(".")
    return f"{module}.modules_to_save.default.{leaf}"


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> StoredTensor:
    read = partial(tensor.detach().to, "cpu", dtype, copy=True, memory_format=torch.contiguous_format)
    return StoredTensor(name, tensor.numel() * dtype.itemsize, read)


def _json_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _json_of(one) for name, one in value.items()}
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_json_of(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(getattr(value, "value", value))
