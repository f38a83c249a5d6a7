"""A quantised checkpoint on disk, laid out as the published ones are.

    config.json             the float model's keys, with fp16 true and quantization_config
    quantize_config.json    the same settings once more, as AutoGPTQ writes them
    model.safetensors       or model-00001-of-000NN.safetensors and model.safetensors.index.json
    generation_config.json, tokenizer_config.json, *.tiktoken, tokenizer.json, ..., licences: copied

Everything but the linears of the blocks is stored as fp16.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.safetensors_file import SafetensorsFile, read_tensor_infos
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.writer import (
    DEFAULT_SHARD_BYTES,
    StoredTensor,
    copy_files,
    flush,
    write_json,
    write_shards,
    writing,
)
from qwartet.errors import CheckpointError
from qwartet.models.qwen1 import QWEN1
from qwartet.quant_format.config import GptqConfig

CHECKED_ROWS = 4096  # at a time
HINT = "finished blocks are kept: fix this, then run the same command again to resume"


def read_fp16(source: Checkpoint, name: str) -> Tensor:
    """A float tensor of the source, rounded to fp16; CheckpointError for a value that fp16 cannot hold."""
    half = source.read(name).half()
    check_fp16(source, name)
    return half


def check_fp16(source: Checkpoint, name: str) -> None:
    """CheckpointError for a float tensor of the source with a value that fp16 cannot hold."""
    for rows in source.read(name).split(CHECKED_ROWS):
        if not rows.half().isfinite().all():
            reason = f"reaches {rows.abs().max():g}; the GPTQ format stores fp16, whose maximum is 65504"
            raise CheckpointError(
                source.info(name).file, reason, tensor=name, hint="this model cannot be quantised as it is"
            )


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
    with writing(output, HINT):
        shutil.rmtree(output, ignore_errors=True)  # left by a killed run
        output.mkdir(parents=True)
    write_shards(output, list(_all_tensors(source, layout, block_files)), max_shard_bytes, hint=HINT)
    write_json(output / "config.json", _config_json(read_json(source.directory / "config.json"), config), hint=HINT)
    write_json(output / "quantize_config.json", config.to_dict(), hint=HINT)
    copy_files(source.directory, output, hint=HINT)
    with writing(output, HINT):
        flush(output)


def make_directory(path: Path) -> None:
    """Makes a directory and its parents unless they exist; CheckpointError when the disk refuses."""
    with writing(path, HINT):
        path.mkdir(parents=True, exist_ok=True)


def publish(output: Path, target: Path) -> None:
    """Gives a finished directory its final name in one step; CheckpointError when that name is taken by now."""
    with writing(target, HINT):
        output.rename(target)
        flush(target.parent)


def _all_tensors(source: Checkpoint, layout: Layout, block_files: Sequence[Path]) -> Iterator[StoredTensor]:
    """Every tensor, in the order of the forward pass."""
    yield _outside_tensor(source, layout.parameter_name("embedding.weight"))
    for path in block_files:
        file = SafetensorsFile(path)
        for info in read_tensor_infos(path).values():
            yield StoredTensor(info.name, info.nbytes, partial(file.read, info))
    yield _outside_tensor(source, layout.parameter_name("norm.weight"))
    if not layout.is_tied:
        yield _outside_tensor(source, layout.parameter_name("lm_head.weight"))


def _outside_tensor(source: Checkpoint, name: str) -> StoredTensor:
    num_values = torch.Size(source.info(name).shape).numel()
    return StoredTensor(name, num_values * torch.half.itemsize, partial(read_fp16, source, name))


def _config_json(source: Mapping[str, Any], config: GptqConfig) -> dict[str, Any]:
    """The published order is by name, but for the keys of quantization_config."""
    if source.get("model_type") == QWEN1.model_type:
        dtypes: dict[str, Any] = {"bf16": False, "fp16": True, "fp32": False, "torch_dtype": "float16"}
    else:  # transformers 5 writes "dtype"; older readers know the other name only
        dtypes = {key: "float16" for key in ("dtype", "torch_dtype") if key in source or key == "torch_dtype"}
    return dict(sorted({**source, **dtypes, "quantization_config": config.to_quantization_config()}.items()))
