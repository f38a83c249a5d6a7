"""Quantises one block of the network with GPTQ.

Its linears are quantised in four steps, each on the inputs that the linears already quantised produce
("true_sequential"):

    attention.qkv   ->   attention.output   ->   mlp.up, mlp.gate   ->   mlp.down

Order and sequence: Frantar et al. 2022, and AutoGPTQ 0.7.1, which made the published checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError, SettingError
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.linear import Linear
from qwartet.layers.rotary import RotaryTable
from qwartet.models.config import ModelConfig
from qwartet.models.families import layout_of
from qwartet.models.qwen import DecoderLayer
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.quantize.hessian import HessianAccumulator
from qwartet.quantize.solver import SolverResult, gptq_quantize

STEPS = (("attention.qkv",), ("attention.output",), ("mlp.up", "mlp.gate"), ("mlp.down",))
"""Linears of one step take the same input and share a Hessian."""

BATCH_TOKENS = 4096  # that go through a block at once: bounds the memory for its activations


@dataclass
class CalibrationBatch:
    """Some calibration examples, and their hidden states at the current block."""

    batch: ForwardBatch
    hidden: Tensor  # [T, C] fp32, the input of the next block; on the CPU between blocks


def embed_calibration(
    checkpoint: Checkpoint,
    config: ModelConfig,
    calibration: Sequence[Sequence[int]],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> list[CalibrationBatch]:
    """Examples of token ids as inputs of the first block, in batches; each example attends to itself alone."""
    table = checkpoint.read(layout_of(config).parameter_name("embedding.weight"))
    batches: list[list[Sequence[int]]] = [[]]
    for example in calibration:
        if batches[-1] and sum(map(len, batches[-1])) + len(example) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(example)
    return [
        CalibrationBatch(
            dense_batch(examples, config.position, device=device),
            F.embedding(torch.tensor([token for example in examples for token in example]), table).to(dtype).float(),
        )
        for examples in batches
    ]


class _InputsCounted(Exception):
    """Ends a forward pass at the linear whose inputs were wanted."""


def load_block(
    checkpoint: Checkpoint, config: ModelConfig, index: int, *, dtype: torch.dtype, device: torch.device
) -> DecoderLayer:
    """Block `index` of a float checkpoint, without gradients; the caller has checked names and shapes."""
    with torch.device("meta"):
        layer = DecoderLayer(config, index)
    for spec in layout_of(config).of_layer(index):
        for leaf in ("weight", "bias"):
            names = spec.disk_names(leaf)
            if all(name in checkpoint for name in names):
                value = torch.cat([checkpoint.read(name) for name in names]).to(device, dtype)
                _set_parameter(layer, f"{spec.name.split('.', 2)[2]}.{leaf}", value)
    return layer.eval()


def quantize_block(
    layer: DecoderLayer,
    calibration: Sequence[CalibrationBatch],
    rotary: RotaryTable,
    config: GptqConfig,
    names: Mapping[str, str],
    path: str | os.PathLike[str],
    on_batch: Callable[[str, int], None],
) -> Iterator[tuple[str, SolverResult]]:
    """Yields (linear, result without the bias) in the order of LINEARS; `layer` continues with the quantised weights.

    `on_batch` is called with the first linear of a step and the number of a calibration batch, once that is in the
    step's Hessian. CheckpointError, naming `path` and the linear by its name on disk (`names`), where its weights or
    its inputs cannot be quantised.
    """
    for step in STEPS:
        hessian = _gather_hessian(layer, step[0], calibration, rotary, partial(on_batch, step[0]))
        for linear in step:
            weight = _linear(layer, linear).weight
            try:
                result = gptq_quantize(
                    weight,
                    hessian,
                    bits=config.bits,
                    group_size=config.group_size,
                    sym=config.sym,
                    desc_act=config.desc_act,
                    damp_percent=config.damp_percent,
                )
            except SettingError as error:
                raise CheckpointError(path, f"cannot be quantised: {error}", tensor=names[linear]) from error
            use_quantized(layer, {linear: result.weight})
            yield linear, result


def use_quantized(layer: DecoderLayer, weights: Mapping[str, QuantizedWeight]) -> None:
    """Replaces the float weights by quantised ones, dequantised."""
    for linear, weight in weights.items():
        old = _linear(layer, linear).weight
        _set_parameter(layer, f"{linear}.weight", weight.dequantize(old.dtype).to(old.device))


def advance(
    layer: DecoderLayer,
    calibration: Sequence[CalibrationBatch],
    rotary: RotaryTable,
    on_batch: Callable[[int], None],
) -> None:
    """Sends every calibration batch through the block, in place; `on_batch` is called with the number of each."""
    for number, item in enumerate(calibration):
        item.hidden = _forward(layer, item, rotary).cpu()
        on_batch(number)


def _gather_hessian(
    layer: DecoderLayer,
    linear: str,
    calibration: Sequence[CalibrationBatch],
    rotary: RotaryTable,
    on_batch: Callable[[int], None],
) -> Tensor:
    """The Hessian of one linear over the whole calibration, fp32 [K, K]."""
    module = _linear(layer, linear)
    accumulator = HessianAccumulator(module.weight.shape[1], module.weight.device)

    def count(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        accumulator.add(inputs[0])
        raise _InputsCounted  # nothing after this linear need be computed

    hook = module.register_forward_pre_hook(count)
    try:
        for number, item in enumerate(calibration):
            with suppress(_InputsCounted):
                _forward(layer, item, rotary)
            on_batch(number)
    finally:
        hook.remove()
    return accumulator.hessian


def _forward(layer: DecoderLayer, item: CalibrationBatch, rotary: RotaryTable) -> Tensor:
    hidden: Tensor = layer(item.hidden.to(rotary.cos.device), rotary, item.batch, None)
    return hidden


def _linear(layer: DecoderLayer, name: str) -> Linear:
    module = layer.get_submodule(name)
    assert isinstance(module, Linear), name
    return module


def _set_parameter(layer: DecoderLayer, name: str, value: Tensor) -> None:
    module, _, leaf = name.rpartition(".")
    setattr(layer.get_submodule(module), leaf, nn.Parameter(value, requires_grad=False))
