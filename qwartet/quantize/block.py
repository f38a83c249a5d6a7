"""Quantises one block of the network with GPTQ.

Its linears are quantised in four steps, each on the inputs that the linears already quantised produce
("true_sequential"):

    attention.qkv   ->   attention.output   ->   mlp.up, mlp.gate   ->   mlp.down

Every linear is computed once for each token: the inputs of attention.output and of mlp.down are kept until their
weights are quantised, and so is the sum after the attention. A linear that a checkpoint stores in several parts
(q, k and v) is solved as one matrix, and the parts share its Hessian.

Order and sequence: Frantar et al. 2022, and AutoGPTQ 0.7.1, which made the published checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError
from qwartet.kernels.gptq_ops import GptqOps
from qwartet.layers.dense_batch import dense_batch
from qwartet.layers.linear import Linear
from qwartet.layers.rotary import RotaryTable
from qwartet.models.config import ModelConfig
from qwartet.models.qwen import DecoderLayer
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.quantize.activations import Activations, CalibrationBatch
from qwartet.quantize.hessian import HessianAccumulator
from qwartet.quantize.solver import SolverError, SolverResult, SolverSettings, round_to_nearest, solve

STEPS = (("attention.qkv",), ("attention.output",), ("mlp.up", "mlp.gate"), ("mlp.down",))
"""Linears of one step take the same input and share a Hessian."""

BATCH_TOKENS = 4096  # that go through a block at once: bounds the memory for its activations
HIDDEN, KEPT = "hidden", "inputs"  # names in Activations: of the residual stream, and of what a linear waits for

DAMPING_OF_FEW_TOKENS = 0.2
"""With auto_damp: times inputs per calibration token. Of 0.05, 0.1, 0.2 and 0.4 the best one on the bundled model."""
MOST_DAMPING = 0.5

Method = Literal["gptq", "rtn"]


@dataclass(frozen=True)
class QuantizedLinears:
    """One linear: its parts by their names on disk, and how they were found."""

    parts: dict[str, QuantizedWeight]
    loss: float
    damp_percent: float
    method: Method


@dataclass(frozen=True)
class BlockRun:
    """What the blocks of a run share."""

    calibration: Sequence[CalibrationBatch]
    activations: Activations
    rotary: RotaryTable
    settings: SolverSettings
    ops: GptqOps
    starved_below: float = 0.0
    """Calibration tokens per input of a linear below which it is rounded to nearest."""
    auto_damp: bool = False
    """Whether a linear is damped more where it has few calibration tokens per input."""

    def solver_settings(self, seen: HessianAccumulator) -> SolverSettings:
        """How the linears of a step are quantised whose inputs were these."""
        if not self.auto_damp or seen.num_tokens == 0:
            return self.settings
        of_few = min(DAMPING_OF_FEW_TOKENS * seen.in_features / seen.num_tokens, MOST_DAMPING)
        return replace(self.settings, damp_percent=max(self.settings.damp_percent, of_few))


def embed_calibration(
    checkpoint: Checkpoint,
    layout: Layout,
    config: ModelConfig,
    calibration: Sequence[Sequence[int]],
    activations: Activations,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> list[CalibrationBatch]:
    """Examples of token ids as inputs of the first block, in batches; each example attends to itself alone."""
    table = checkpoint.read(layout.parameter_name("embedding.weight"))
    batches: list[list[Sequence[int]]] = [[]]
    for example in calibration:
        if batches[-1] and sum(map(len, batches[-1])) + len(example) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(example)
    made: list[CalibrationBatch] = []
    first_example = 0
    for number, examples in enumerate(batches):
        made.append(CalibrationBatch(dense_batch(examples, config.position, device=device), first_example))
        ids = torch.tensor([token for example in examples for token in example])
        activations.put(HIDDEN, number, F.embedding(ids, table).to(dtype).float())
        first_example += len(examples)
    return made


def load_block(
    checkpoint: Checkpoint,
    layout: Layout,
    config: ModelConfig,
    index: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    ops: GptqOps,
) -> DecoderLayer:
    """Block `index` of a float checkpoint, without gradients; the caller has checked names and shapes."""
    with torch.device("meta"):
        layer = DecoderLayer(config, index, ops.backend(dtype))
    for spec in layout.of_layer(index):
        for leaf in ("weight", *(["bias"] if spec.has_bias(checkpoint) else [])):
            parts = [checkpoint.read(name).to(device, dtype) for name in spec.disk_names(leaf)]
            value = parts[0] if len(parts) == 1 else torch.cat(parts)
            _set_parameter(layer, f"{spec.name.split('.', 2)[2]}.{leaf}", value)
    return layer.eval()


def quantize_block(
    layer: DecoderLayer,
    specs: Mapping[str, ModuleSpec],
    run: BlockRun,
    path: str | os.PathLike[str],
    on_batch: Callable[[str, int], None],
) -> Iterator[tuple[str, QuantizedLinears]]:
    """Yields (linear, result without the bias) in the order of LINEARS; `layer` continues with the quantised weights.

    `specs` are those of the linears. `on_batch` is called with the first linear of a step and the number of a
    calibration batch, once that is in the step's Hessian. CheckpointError, naming `path` and the linear by its name on
    disk, where its weights or its inputs cannot be quantised; it names the calibration example as well.
    """
    for number, step in enumerate(STEPS):
        accumulator = _gather(layer, number, run, partial(on_batch, step[0]), path, specs[step[0]])
        weights = {
            name: part
            for linear in step
            for (name, _rows), part in zip(
                specs[linear].parts,
                _linear(layer, linear).weight.split([rows for _name, rows in specs[linear].parts]),
                strict=True,
            )
        }
        starved = accumulator.num_tokens < run.starved_below * accumulator.in_features
        method: Method = "rtn" if starved else "gptq"
        function = round_to_nearest if starved else solve
        try:
            results = function(weights, accumulator.hessian, run.solver_settings(accumulator), run.ops)
        except SolverError as error:
            raise CheckpointError(path, f"cannot be quantised: {error}", tensor=error.matrix) from error
        del accumulator, weights
        for linear in step:
            found = _of_linear(results, specs[linear], method)
            use_quantized(layer, {linear: list(found.parts.values())})
            yield linear, found


def _of_linear(results: dict[str, SolverResult], spec: ModuleSpec, method: Method) -> QuantizedLinears:
    parts = {name: results.pop(name) for name, _rows in spec.parts}
    loss = sum(part.loss for part in parts.values())
    damp_percent = max(part.damp_percent for part in parts.values())
    return QuantizedLinears({name: part.weight for name, part in parts.items()}, loss, damp_percent, method)


def use_quantized(layer: DecoderLayer, weights: Mapping[str, Sequence[QuantizedWeight]]) -> None:
    """Replaces the float weights of linears by quantised ones, dequantised; a linear may consist of several parts."""
    for linear, parts in weights.items():
        old = _linear(layer, linear).weight
        dtype, device = old.dtype, old.device
        del old
        values = [part.dequantize(dtype).to(device) for part in parts]
        _set_parameter(layer, f"{linear}.weight", values[0] if len(values) == 1 else torch.cat(values))


def advance(layer: DecoderLayer, run: BlockRun, on_batch: Callable[[int], None], *, is_gathered: bool = False) -> None:
    """Sends every calibration batch through the block; `on_batch` is called with the number of each.

    `is_gathered`: quantize_block has just computed all but the last linear.
    """
    for number, item in enumerate(run.calibration):
        hidden = _hidden(run, number)
        if is_gathered:
            hidden = hidden + layer.mlp.down(_kept(run, number))
        else:
            hidden = layer(hidden, run.rotary, item.batch, None)
        run.activations.put(HIDDEN, number, hidden)
        on_batch(number)


def _gather(
    layer: DecoderLayer,
    step: int,
    run: BlockRun,
    on_batch: Callable[[int], None],
    path: str | os.PathLike[str],
    spec: ModuleSpec,
) -> HessianAccumulator:
    """The Hessian of a step over the whole calibration."""
    accumulator = HessianAccumulator(spec.shape[1], _linear(layer, STEPS[step][0]).weight.device, run.ops)
    for number in range(len(run.calibration)):
        inputs = _inputs(layer, step, run, number)
        accumulator.add(inputs)
        if not accumulator.is_finite:
            raise _not_finite(inputs, run.calibration[number], path, spec)
        on_batch(number)
    return accumulator


def _inputs(layer: DecoderLayer, step: int, run: BlockRun, number: int) -> Tensor:
    """The inputs [T, K] of a step's linears for a batch, from what the step before has left."""
    hidden, batch = _hidden(run, number), run.calibration[number].batch
    if step == 0:
        return layer.attention_norm(hidden)  # type: ignore[no-any-return]
    if step == 1:
        inputs = layer.attention.heads(layer.attention_norm(hidden), run.rotary, batch, None)
    elif step == 2:
        hidden = hidden + layer.attention.output(_kept(run, number))
        run.activations.put(HIDDEN, number, hidden)
        return layer.mlp_norm(hidden)  # type: ignore[no-any-return]
    else:
        inputs = layer.mlp.product(layer.mlp_norm(hidden))
    run.activations.put(KEPT, number, inputs)
    return inputs


def _hidden(run: BlockRun, number: int) -> Tensor:
    return run.activations.get(HIDDEN, number).to(run.rotary.cos.device)


def _kept(run: BlockRun, number: int) -> Tensor:
    return run.activations.get(KEPT, number).to(run.rotary.cos.device)


def _not_finite(
    inputs: Tensor, item: CalibrationBatch, path: str | os.PathLike[str], spec: ModuleSpec
) -> CheckpointError:
    """The error for inputs of a linear whose Hessian is not finite."""
    largest = inputs.float().abs().amax(1)
    bad = (~largest.isfinite()).nonzero()
    row = int(bad[0]) if len(bad) else int(largest.argmax())
    example, token = item.place_of(row)
    what = "NaN or infinite" if len(bad) else f"as large as {largest[row]:.3g}"
    where = f"in calibration example {example} (the first is 0), token {token}"
    hint = "check the weights before it, or compute in bf16 or fp32 if this was fp16"
    return CheckpointError(path, f"its inputs are {what} {where}", tensor=spec.disk_name, hint=hint)


def _linear(layer: DecoderLayer, name: str) -> Linear:
    module = layer.get_submodule(name)
    assert isinstance(module, Linear), name
    return module


def _set_parameter(layer: DecoderLayer, name: str, value: Tensor) -> None:
    module, _, leaf = name.rpartition(".")
    setattr(layer.get_submodule(module), leaf, nn.Parameter(value, requires_grad=False))
