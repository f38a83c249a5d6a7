"""A quantised checkpoint on disk, laid out as the published ones are.

    config.json             the float model's keys, with fp16 true and quantization_config
    quantize_config.json    the same settings once more, as AutoGPTQ writes them
    model.safetensors       or model-00001-of-000NN.safetensors and model.safetensors.index.json
    generation_config.json, tokenizer_config.json, *.tiktoken, licences: copied

Everything but the five linears of a block is stored as fp16.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.safetensors_file import SafetensorsFile, read_tensor_infos
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.weight_files import INDEX_NAME
from qwartet.errors import CheckpointError
from qwartet.quant_format.config import GptqConfig

DEFAULT_SHARD_BYTES = 2_000_000_000  # about what the published checkpoints use
COPIED_FILES = ("generation_config.json", "tokenizer_config.json", "*.tiktoken", "LICENSE*", "NOTICE*")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the new checkpoint, read only when its shard is written."""

    name: str
    nbytes: int
    read: Callable[[], Tensor]


def read_fp16(source: Checkpoint, name: str) -> Tensor:
    """A float tensor of the source, rounded to fp16; CheckpointError for a value that fp16 cannot hold."""
    tensor = source.read(name)
    half = tensor.half()
    if not half.isfinite().all():
        reason = f"reaches {tensor.abs().max():g}; the GPTQ format stores fp16, whose maximum is 65504"
        raise CheckpointError(
            source.info(name).file, reason, tensor=name, hint="this model cannot be quantised as it is"
        )
    return half


def write_checkpoint(
    output: Path,
    source: Checkpoint,
    layout: Layout,
    block_files: Sequence[Path],
    config: GptqConfig,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Writes the complete checkpoint into the new directory `output`, and waits until it is on the disk.

    block_files: one safetensors file for each block, with its tensors by their final names. CheckpointError when
    the disk refuses.
    """
    with _writing(output):
        shutil.rmtree(output, ignore_errors=True)  # left by a killed run
        output.mkdir(parents=True)
    _write_shards(output, list(_all_tensors(source, layout, block_files)), max_shard_bytes)
    _write_json(output / "config.json", _config_json(read_json(source.directory / "config.json"), config))
    _write_json(output / "quantize_config.json", config.to_dict())
    for file in copied_files(source.directory):
        with _writing(output / file.name):
            shutil.copyfile(file, output / file.name)
            _flush(output / file.name)
    with _writing(output):
        _flush(output)


def copied_files(source: Path) -> list[Path]:
    """The files of a float checkpoint that the quantised one has too."""
    return [file for pattern in COPIED_FILES for file in source.glob(pattern) if file.is_file()]


def make_directory(path: Path) -> None:
    """Makes a directory and its parents unless they exist; CheckpointError when the disk refuses."""
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)


def publish(output: Path, target: Path) -> None:
    """Gives a finished directory its final name in one step; CheckpointError when that name is taken by now."""
    with _writing(target):
        output.rename(target)
        _flush(target.parent)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes one safetensors file and waits until it is on the disk; CheckpointError when the disk refuses."""
    with _writing(path):
        path.touch()
        mode = path.stat().st_mode  # follows the umask; the library makes files that only their owner can read
        save_file(dict(tensors), path, dict(metadata))
        path.chmod(mode)
        _flush(path)


def _all_tensors(source: Checkpoint, layout: Layout, block_files: Sequence[Path]) -> Iterator[StoredTensor]:
    """Every tensor, in the order of the forward pass."""
    yield _outside_tensor(source, layout.parameter_name("embedding.weight"))
    for path in block_files:
        file = SafetensorsFile(path)
        for info in read_tensor_infos(path).values():
            yield StoredTensor(info.name, info.nbytes, partial(file.read, info))
    yield _outside_tensor(source, layout.parameter_name("norm.weight"))
    yield _outside_tensor(source, layout.parameter_name("lm_head.weight"))


def _outside_tensor(source: Checkpoint, name: str) -> StoredTensor:
    num_values = torch.Size(source.info(name).shape).numel()
    return StoredTensor(name, num_values * torch.half.itemsize, partial(read_fp16, source, name))


def _plan_shards(tensors: Sequence[StoredTensor], max_shard_bytes: int) -> list[list[StoredTensor]]:
    """Cuts the tensors, in order, into shards; a shard is larger than the limit only when one tensor is."""
    shards: list[list[StoredTensor]] = [[]]
    used = 0
    for tensor in tensors:
        if shards[-1] and used + tensor.nbytes > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.nbytes
    return shards


def _write_shards(output: Path, tensors: Sequence[StoredTensor], max_shard_bytes: int) -> None:
    shards = _plan_shards(tensors, max_shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_tensors(output / file, {tensor.name: tensor.read() for tensor in shard}, {"format": "pt"})
        weight_map.update({tensor.name: file for tensor in shard})
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(output / INDEX_NAME, index)


def _config_json(source: Mapping[str, Any], config: GptqConfig) -> dict[str, Any]:
    """The published order is by name, but for the keys of quantization_config."""
    dtypes = {"bf16": False, "fp16": True, "fp32": False, "torch_dtype": "float16"}
    return dict(sorted({**source, **dtypes, "quantization_config": config.to_quantization_config()}.items()))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with _writing(path):
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _flush(path)


def _flush(path: Path) -> None:
    """Waits until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        hint = "finished blocks are kept: fix this, then run the same command again to resume"
        raise CheckpointError(path, f"cannot be written ({error})", hint=hint) from error
