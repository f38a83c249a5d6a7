"""Quantises a float checkpoint to a GPTQ checkpoint in the published layout, one block at a time.

    embedding -> block 0 -> block 1 -> ... ; every block is quantised on the outputs of the quantised blocks before it

Memory holds one block, the Hessian of one step, and the activations of the calibration, which may be on the disk
instead (memory.py adds it up); the checkpoint is memory-mapped. Finished blocks are files in `<target>.partial`, from
which a stopped run resumes; the target directory appears when it is complete.

Source: the sequence of AutoGPTQ 0.7.1, which made the published checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from qwartet import __version__
from qwartet.checkpoint.expected_tensors import check_dense_shapes, check_names
from qwartet.checkpoint.layout import LINEARS, Layout, ModuleSpec
from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.weight_values import check_unused_biases
from qwartet.checkpoint.writer import DEFAULT_SHARD_BYTES
from qwartet.errors import CheckpointError, SettingError
from qwartet.files import locked
from qwartet.kernels.select import select_gptq_ops
from qwartet.layers.rotary import RotaryTable
from qwartet.models.config import ModelConfig
from qwartet.models.families import layout_of, load_config
from qwartet.models.load import Dtype, load_gptq_config, resolve_dtype
from qwartet.models.qwen import DecoderLayer
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight
from qwartet.quantize.activations import Activations
from qwartet.quantize.block import BlockRun, advance, embed_calibration, load_block, quantize_block, use_quantized
from qwartet.quantize.calibration import check_calibration
from qwartet.quantize.finished_blocks import Fingerprint, FinishedBlock, FinishedBlocks, QuantizeEvent
from qwartet.quantize.memory import QuantizeLoad, has_order
from qwartet.quantize.progress import OnProgress, RunProgress
from qwartet.quantize.requirements import check_disk_space, check_files, check_memory, check_sizes, check_target
from qwartet.quantize.solver import SolverSettings
from qwartet.quantize.writer import check_fp16, make_directory, publish, read_fp16, write_checkpoint

OnEvent = Callable[[QuantizeEvent], None]


@dataclass(frozen=True)
class QuantizeOptions:
    """What a run does beyond the settings that its files state; the defaults are those of the published checkpoints."""

    act_group_aware: bool = False
    search_scales: bool = False
    starved_below: float = 0.0
    """Linears with fewer calibration tokens than this per input are rounded to nearest."""
    auto_damp: bool = False
    """Linears with few calibration tokens per input are damped more (block.py)."""
    spill: Path | None = None
    """Directory for the activations of the calibration; None: they stay in memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.starved_below < math.inf:
            raise SettingError(f"starved_below is {self.starved_below:g}; it must be 0 or more tokens per input")


DEFAULT_OPTIONS = QuantizeOptions()


@torch.no_grad()
def quantize_checkpoint(
    source: Path,
    target: Path,
    config: GptqConfig,
    calibration: Sequence[Sequence[int]],
    *,
    options: QuantizeOptions = DEFAULT_OPTIONS,
    device: torch.device | str = "cpu",
    dtype: Dtype = "fp32",
    on_event: OnEvent | None = None,
    on_progress: OnProgress | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> list[QuantizeEvent]:
    """Quantises the float checkpoint `source` into the new directory `target`; returns one event for each linear.

    calibration: token ids, one list for each example. dtype: of the forward passes; Hessian and solver are fp32.
    on_event is called with each quantised linear, on_progress after each calibration batch and each linear; an
    exception from either stops the run. A stopped run with the same arguments resumes after its last finished block and
    ends with the same bits.

    SettingError for unsupported settings, an unsuitable calibration, a target that exists or is being written, too
    little disk space, and blocks of a run with other settings; CheckpointError for a source that is broken, quantised
    already or beyond the range of fp16, for activations that are not finite, and where the disk refuses;
    OutOfMemoryError when a block does not fit.
    """
    config, place = _checked_settings(config), torch.device(device)
    solver = solver_settings(config, options)
    check_target(target)
    work = target.with_name(f"{target.name}.partial")
    checkpoint, model_config = _open_float_checkpoint(source)
    layout = layout_of(model_config, checkpoint)
    check_calibration(calibration, model_config)
    computed_in = resolve_dtype(dtype, checkpoint, layout)
    check_sizes(source, layout, config)
    check_files(source, model_config)
    load = QuantizeLoad.of_examples(calibration, options.spill is not None)
    check_memory(source, model_config, load, dtype=computed_in, device=place, order=has_order(solver))
    with _alone(target):
        spilled = None if options.spill is None else options.spill / f"{target.name}.activations"
        spilled_bytes = {spilled: load.stored_bytes(model_config, computed_in)} if spilled is not None else {}
        check_disk_space(target, work, layout, config, spilled_bytes)
        _check_range(checkpoint, layout)  # last, because it reads the embedding and the head
        make_directory(work)
        finished = FinishedBlocks(work)
        parts = (checkpoint, layout, model_config, config, solver, options, calibration)
        with Activations(spilled) as activations:
            run = _Quantization(*parts, finished, activations, computed_in, place, on_progress)
            events = []
            for index in range(model_config.num_layers):
                events += run.run_block(index, on_event or (lambda _event: None))
        run.progress.writing()
        block_files = [finished.file(index) for index in range(model_config.num_layers)]
        write_checkpoint(work / "output", checkpoint, layout, block_files, config, max_shard_bytes)
        publish(work / "output", target)
        shutil.rmtree(work, ignore_errors=True)
    return events


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keeps other processes from quantising into `target` meanwhile; SettingError where one does already."""
    make_directory(target.parent)

    def on_busy() -> None:
        raise SettingError(f"{target}: another process is writing it; wait for it to finish, or choose another name")

    with locked(target.with_name(f".{target.name}.lock"), on_busy):
        check_target(target)  # the other process may have finished just now
        yield


class _Quantization:
    """State that passes from block to block: the hidden states, and the fingerprint of everything that led to them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        layout: Layout,
        model_config: ModelConfig,
        config: GptqConfig,
        solver: SolverSettings,
        options: QuantizeOptions,
        calibration: Sequence[Sequence[int]],
        finished: FinishedBlocks,
        activations: Activations,
        dtype: torch.dtype,
        device: torch.device,
        on_progress: OnProgress | None,
    ) -> None:
        self.checkpoint, self.layout, self.model_config, self.config = checkpoint, layout, model_config, config
        self.finished = finished
        self.dtype, self.device = dtype, device
        batches = embed_calibration(
            checkpoint, layout, model_config, calibration, activations, dtype=dtype, device=device
        )
        rotary, ops = RotaryTable(model_config.position, device), select_gptq_ops(device)
        self.run = BlockRun(batches, activations, rotary, solver, ops, options.starved_below, options.auto_damp)
        self.progress = RunProgress(
            self.layout, [item.num_tokens for item in batches], on_progress or (lambda _progress: None)
        )
        examples = [list(map(int, example)) for example in calibration]
        settings = {
            **asdict(config),
            **asdict(solver),
            "starved_below": options.starved_below,
            "auto_damp": options.auto_damp,
            "model": asdict(model_config),
            "dtype": str(dtype),
            "device": device.type,
            "calibration": hashlib.sha256(json.dumps(examples).encode()).hexdigest(),
            "version": __version__,
        }
        finished.claim(settings)
        self.fingerprint = Fingerprint(settings)
        self.fingerprint.add(checkpoint, [self.layout.parameter_name("embedding.weight")])

    def run_block(self, index: int, on_event: OnEvent) -> list[QuantizeEvent]:
        """Quantises a block, or restores it from an earlier run, and sends the calibration through it."""
        source = self.checkpoint, self.layout, self.model_config
        layer = load_block(*source, index, dtype=self.dtype, device=self.device, ops=self.run.ops)
        modules = self.layout.of_layer(index)
        self.fingerprint.add(self.checkpoint, _tensor_names(self.checkpoint, modules, ["weight", "bias"]))
        block = self.finished.load(index, self.fingerprint.hexdigest())
        is_resumed = block is not None
        if block is None:
            block = self._quantize(layer, index, on_event)
            self.finished.save(index, self.fingerprint.hexdigest(), block)
            events = block.events
        else:
            self._restore(layer, index, block)
            events = [replace(event, is_resumed=True) for event in block.events]
            for event in events:
                on_event(event)
        del block
        self.progress.finished(index, is_resumed=is_resumed)
        if index + 1 < self.model_config.num_layers:
            advance(layer, self.run, partial(self.progress.advanced, index), is_gathered=not is_resumed)
        return events

    def _linears(self, index: int) -> dict[str, ModuleSpec]:
        return {linear: self.layout[f"layers.{index}.{linear}"] for linear in LINEARS}

    def _quantize(self, layer: DecoderLayer, index: int, on_event: OnEvent) -> FinishedBlock:
        block = FinishedBlock({}, [])
        norms = [spec for spec in self.layout.of_layer(index) if spec.kind != "linear"]
        for name in _tensor_names(self.checkpoint, norms, ["weight"]):
            block.tensors[name] = read_fp16(self.checkpoint, name)
        start = time.perf_counter()
        path, on_batch = self.checkpoint.directory, partial(self.progress.gathered, index)
        for linear, result in quantize_block(layer, self._linears(index), self.run, path, on_batch):
            for name, weight in result.parts.items():
                block.tensors.update(self._linear_tensors(name, weight))
            seconds = time.perf_counter() - start
            event = QuantizeEvent(
                index, self.model_config.num_layers, linear, result.loss, result.damp_percent, seconds, result.method
            )
            block.events.append(event)
            self.progress.solved(index, linear)
            on_event(event)
            start = time.perf_counter()
        return block

    def _linear_tensors(self, name: str, weight: QuantizedWeight) -> dict[str, torch.Tensor]:
        bias = f"{name}.bias"
        if bias in self.checkpoint:
            weight = replace(weight, bias=read_fp16(self.checkpoint, bias))
        return {f"{name}.{leaf}": tensor.cpu() for leaf, tensor in weight.to_tensors().items()}

    def _restore(self, layer: DecoderLayer, index: int, block: FinishedBlock) -> None:
        """Gives the layer the weights of the finished block."""
        path = self.finished.file(index)
        weights = {}
        for linear, spec in self._linears(index).items():
            weights[linear] = [
                QuantizedWeight.from_tensors(
                    {leaf: block.tensors[f"{name}.{leaf}"] for leaf in ("qweight", "qzeros", "scales", "g_idx")},
                    self.config, name=name, path=path,
                )
                for name, _rows in spec.parts
            ]  # fmt: skip
        use_quantized(layer, weights)


def _checked_settings(config: GptqConfig) -> GptqConfig:
    """The settings as the new files state them; SettingError for those that solver and writer do not support."""
    if config.static_groups or not config.true_sequential:
        raise SettingError("only static_groups false and true_sequential true are supported for quantising")
    if config.checkpoint_format == "gptq_v2":
        raise SettingError("checkpoint_format is 'gptq_v2'; only 'gptq', the published format, can be written")
    # Without it a reader could not tell the two versions of asymmetric zeros apart; symmetric ones show it themselves.
    return config if config.sym else replace(config, checkpoint_format="gptq")


def solver_settings(config: GptqConfig, options: QuantizeOptions) -> SolverSettings:
    """How matrices are quantised; SettingError for values out of bounds, and for options that contradict each other."""
    return SolverSettings(
        config.bits, config.group_size, config.sym, config.desc_act, config.damp_percent,
        options.act_group_aware, options.search_scales,
    )  # fmt: skip


def _open_float_checkpoint(source: Path) -> tuple[Checkpoint, ModelConfig]:
    """The source, its configs and headers checked."""
    model_config = load_config(source)
    if load_gptq_config(source) is not None:
        raise CheckpointError(source, "is quantised already", hint="use the float checkpoint that it was made from")
    checkpoint = Checkpoint(source)
    layout = layout_of(model_config, checkpoint)
    check_names(checkpoint, layout, None)
    check_dense_shapes(checkpoint, layout, None)
    check_unused_biases(checkpoint, layout)
    return checkpoint, model_config


def _check_range(checkpoint: Checkpoint, layout: Layout) -> None:
    """CheckpointError for a value that fp16 cannot hold in a tensor that is not quantised."""
    for module in layout:
        for name in _tensor_names(checkpoint, [module], ["bias"] if module.kind == "linear" else ["weight"]):
            check_fp16(checkpoint, name)


def _tensor_names(checkpoint: Checkpoint, modules: Iterable[ModuleSpec], leaves: Sequence[str]) -> list[str]:
    """Names on disk of those parameters of some modules that the checkpoint has."""
    names = (name for module in modules for leaf in leaves for name in module.disk_names(leaf))
    return [name for name in names if name in checkpoint]
