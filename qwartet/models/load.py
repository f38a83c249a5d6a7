"""A checkpoint directory -> a QwenModel ready to run.

Checks run in this order, so that nothing large is read in vain: config.json, the quantisation config, file sizes and
headers, names, shapes, memory, samples of values; then the tensors one by one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.expected_tensors import check_dense_shapes, check_names
from qwartet.checkpoint.held_tensors import LoadSettings, held_tensors
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.quantized_linears import as_stored, is_quantized
from qwartet.checkpoint.safetensors_file import LoadMode
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.unfinished_downloads import check_downloads
from qwartet.checkpoint.weight_cache import weights_of
from qwartet.checkpoint.weight_cache_file import OnPacked
from qwartet.checkpoint.weight_values import check_unused_biases, check_values
from qwartet.checkpoint.weights import Weights
from qwartet.checkpoint.zero_version import with_zero_version
from qwartet.errors import MemoryWarning, SettingError
from qwartet.kernels.backend import REFERENCE
from qwartet.kernels.select import select_backend
from qwartet.layers.head import Head
from qwartet.layers.linear import QuantizedLinear
from qwartet.layers.rotary import RotaryTable
from qwartet.layers.weight_stream import StreamedLayers, WeightStream
from qwartet.models.config import ModelConfig
from qwartet.models.families import family_of, layout_of, load_config
from qwartet.models.qwen import QwenModel
from qwartet.models.residency import (
    fits_memory,
    memory_error,
    resident_budget,
    stream_forecast,
    told_of_memory,
    weights_bytes,
)
from qwartet.quant_format.awq_config import AWQ_KEYS
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.methods import parse_quantization_config

Dtype = torch.dtype | Literal["auto", "bf16", "bfloat16", "fp16", "float16", "fp32", "float32"]

_DTYPES = {
    "bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp16": torch.float16, "float16": torch.float16,
    "fp32": torch.float32, "float32": torch.float32,
}  # fmt: skip
HEADS = ("auto", "int8", "exact")


def resolve_dtype(dtype: Dtype, checkpoint: Checkpoint, layout: Layout) -> torch.dtype:
    """The dtype to compute in. "auto" is the file's, except that fp16 becomes bf16, whose range cannot overflow."""
    if isinstance(dtype, torch.dtype):
        resolved: torch.dtype | None = dtype
    elif dtype == "auto":
        embedding = layout.parameter_name("embedding.weight")
        if layout.spare_head is not None and embedding not in checkpoint:
            embedding = f"{layout.spare_head}.weight"
        resolved = torch.float32 if checkpoint.info(embedding).dtype == "F32" else torch.bfloat16
    else:
        resolved = _DTYPES.get(dtype)
    if resolved is None or resolved not in _DTYPES.values():
        raise SettingError(f"dtype is {dtype!r}; it must be one of auto, {', '.join(_DTYPES)}")
    return resolved


def load_gptq_config(directory: Path) -> GptqConfig | None:
    """The quantisation config from config.json and a file of its own, which must agree; None for a float model.

    The file is quantize_config.json (GPTQ) or quant_config.json (AWQ).
    """
    config, raw = None, read_json(directory / "config.json")
    embedded = raw.get("quantization_config")
    if embedded is None and raw.get("compression_config") is not None:
        embedded = {"quant_method": "compressed-tensors"}
    if embedded is not None:
        config = parse_quantization_config(embedded, directory / "config.json")
    for path in (directory / "quantize_config.json", directory / "quant_config.json"):
        values = read_json(path) if has_file(path) else None
        if values is None or (path.name == "quant_config.json" and not any(key in values for key in AWQ_KEYS)):
            continue
        found = parse_quantization_config(values, path)
        config = found if config is None else config.merge(found, path)
    return config


def choose_settings(
    checkpoint: Checkpoint,
    config: ModelConfig,
    gptq: GptqConfig | None,
    *,
    dtype: Dtype = "auto",
    device: torch.device | None = None,
    activations: str | None = None,
    head: str = "auto",
    trainable: bool = False,
) -> LoadSettings:
    """Resolves the arguments of `load_model` for this checkpoint; SettingError for an unknown one."""
    if head not in HEADS:
        raise SettingError(f"head is {head!r}; it must be one of {', '.join(HEADS)}")
    resolved, place = resolve_dtype(dtype, checkpoint, layout_of(config)), device or torch.device("cpu")
    backend = select_backend(
        place,
        resolved,
        activations=activations,
        head_dim=config.head_dim,
        rotary_dim=config.position.rotary_dim,
    )
    if trainable:
        backend = REFERENCE
    has_copy = backend.head_specs(config.vocab_size, config.hidden_size) is not None
    prepares_head = has_copy and (head == "int8" or (head == "auto" and gptq is not None))
    return LoadSettings(resolved, place, gptq, backend, prepares_head)


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint whose names, shapes and dtypes are what its config.json implies; no weight has been checked."""

    config: ModelConfig
    gptq: GptqConfig | None
    checkpoint: Checkpoint
    layout: Layout


def open_checkpoint(
    directory: Path, load_mode: LoadMode = "mmap", checkpoint_format: str | None = None
) -> OpenCheckpoint:
    """Opens a checkpoint directory; CheckpointError when anything in it is wrong.

    `checkpoint_format` as for `load_model`, which raises the same errors.
    """
    config = load_config(directory)
    return open_as(directory, config, partial(layout_of, config), load_mode, checkpoint_format)


def open_as(
    directory: Path,
    config: ModelConfig,
    layout_in: Callable[[Checkpoint], Layout],
    load_mode: LoadMode,
    checkpoint_format: str | None,
) -> OpenCheckpoint:
    """Opens a checkpoint directory as a network of this config and layout, whatever its config.json says."""
    gptq = load_gptq_config(directory)
    checkpoint = Checkpoint(directory, load_mode)
    check_downloads(directory, checkpoint.files)
    layout = layout_in(checkpoint)
    gptq = as_stored(gptq, checkpoint, layout)
    check_names(checkpoint, layout, gptq)
    check_dense_shapes(checkpoint, layout, gptq)
    check_unused_biases(checkpoint, layout)
    if checkpoint_format is not None and (gptq is None or gptq.method != "gptq"):
        raise SettingError(f"checkpoint_format is {checkpoint_format!r}, but {directory} is not GPTQ; leave it out")
    if gptq is not None:
        gptq = with_zero_version(gptq, checkpoint, layout, checkpoint_format)
    return OpenCheckpoint(config, gptq, checkpoint, layout)


def _assign(model: QwenModel, layout: Layout, weights: Weights) -> None:
    """Puts the weights of every module into the network."""
    for spec in layout:
        module = model.get_submodule(spec.name)
        if spec.kind == "head" and layout.is_tied:
            model.lm_head.weight = model.embedding.weight
            continue
        if is_quantized(spec, weights.settings.gptq):
            parent, _, leaf = spec.name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, QuantizedLinear(weights.quantized(spec), model.backend))
            continue
        module.register_parameter("weight", nn.Parameter(weights.dense(spec, "weight"), requires_grad=False))
        if spec.kind == "linear":
            bias = nn.Parameter(weights.dense(spec, "bias"), requires_grad=False) if weights.has_bias(spec) else None
            module.bias = bias  # type: ignore[assignment]
    model.lm_head.prepared = weights.prepared_head(model.lm_head.weight)


@told_of_memory()
def load_model(
    directory: Path,
    *,
    dtype: Dtype = "auto",
    device: torch.device | str = "cpu",
    load_mode: LoadMode = "mmap",
    force: bool = False,
    activations: str | None = None,
    head: str = "auto",
    weight_cache: bool = True,
    on_packed: OnPacked | None = None,
    trainable: bool = False,
    checkpoint_format: str | None = None,
) -> QwenModel:
    """The network of a checkpoint directory, in eval mode and without gradients.

    `trainable`: in train mode on the reference kernels, which are differentiable; float parameters get gradients,
    quantised weights are frozen (layers/lora.py puts adapters beside them).

    Raises CheckpointError when anything in the directory is wrong, OutOfMemoryError when the weights do not
    fit (unless `force`), SettingError for an unknown dtype, load mode, kind of activations ("exact", "int8") or head.

    `head` "int8" adds an 8-bit output head where the backend supports one: the same greedy tokens, faster
    (layers/head.py). "auto" does so with quantised weights, where the head dominates the bytes read per token.
    Weights that do not fit in memory are streamed from disk, if they can be memory-mapped (MemoryWarning).
    `weight_cache` keeps the repacked weights on disk for the next start; `on_packed(count, total)` reports bytes.
    `checkpoint_format` ("gptq", "gptq_v2") is how zeros are stored, where the configs of a GPTQ checkpoint do not say.
    """
    device = torch.device(device)
    opened = open_checkpoint(directory, load_mode, checkpoint_format)
    config, gptq, checkpoint, layout = opened.config, opened.gptq, opened.checkpoint, opened.layout
    settings = choose_settings(
        checkpoint, config, gptq, dtype=dtype, device=device, activations=activations, head=head, trainable=trainable
    )
    held = list(held_tensors(checkpoint, layout, settings))
    needed = weights_bytes(held)
    streams = not force and not fits_memory(needed, device)
    if streams and (load_mode != "mmap" or trainable):
        raise memory_error(directory, needed, device)
    check_values(checkpoint, layout)
    rotary = RotaryTable(config.position, device)
    with torch.device("meta"):
        model = family_of(config).build(config, rotary, settings.backend)
    weights = weights_of(checkpoint, layout, settings, held, use_cache=weight_cache, on_packed=on_packed)
    if streams and not all(tensor.is_in_file or weights.is_mapped(tensor.name) for tensor in held):
        raise memory_error(directory, needed, device)
    _assign(model, layout, weights)
    if streams:
        model.layers = streamed_layers(model.layers, model.lm_head, device, checkpoint)
    return model.requires_grad_(trainable).train(trainable)


def streamed_layers(blocks: nn.ModuleList, head: Head, device: torch.device, checkpoint: Checkpoint) -> StreamedLayers:
    """Keeps some blocks in memory and reads the others when they are needed; with a MemoryWarning."""
    layers = [[tensor for module in block.modules() for tensor in _tensors_of(module)] for block in blocks.children()]
    head_bytes = sum(tensor.nbytes for tensor in _tensors_of(head))
    stream = WeightStream(layers, resident_budget(device) - head_bytes)
    warnings.warn(stream_forecast(stream, checkpoint.files[0]), MemoryWarning, stacklevel=3)
    return StreamedLayers(blocks, stream)


def _tensors_of(module: nn.Module) -> list[Tensor]:
    """The tensors that a module holds directly, and reads in a step."""
    tensors = [parameter.detach() for parameter in module.parameters(recurse=False)]
    if isinstance(module, QuantizedLinear | Head) and module.prepared is not None:
        tensors += module.prepared.tensors.values()
    return tensors
