"""What quantising a model costs: how far checkpoints are from their float parent, by position and by layer.

    KL              sum_v p(v) ln(p(v) / q(v))      p: parent, q: quantised; nats, at each position of a text
    top-1           the share of positions with the same most probable token
    perplexity      exp of the mean cross entropy of the text's next tokens
    error           |x - x'| / |x| of the residual stream behind each block: x of the parent, x' of the other

All models run as `qwartet chat` would run them, block by block side by side, so no layer's outputs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwartet.bench.contexts import batches
from qwartet.bench.numerics import Log, Progress, check_positions, kl_divergence
from qwartet.errors import SettingError
from qwartet.files import atomic_write
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.families import load_config
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel

ROWS_AT_ONCE = 128  # of logits
BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # bounds of positions that are averaged


@dataclass(frozen=True)
class Effect:
    """One checkpoint against its parent; `kl_by_position` by the position before which a bucket ends."""

    name: str
    num_bytes: int  # of its weights on disk
    perplexity: float
    mean_kl: float  # nats
    p99_kl: float  # 99 % of the positions are at or below it
    top1: float
    kl_by_position: dict[int, float]
    error_by_layer: list[float]


@dataclass(frozen=True)
class QuantizationReport:
    """All checkpoints against one parent."""

    parent: str
    parent_bytes: int
    num_positions: int
    perplexity: float
    effects: list[Effect]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class _Tally:
    """The sums of one model over all positions."""

    def __init__(self, num_layers: int) -> None:
        self.kl: list[Tensor] = []
        self.positions: list[Tensor] = []
        self.num_same = self.num_predicted = 0
        self.nats = 0.0
        self.squares = torch.zeros(num_layers, 2, dtype=torch.float64)  # of the error, and of the parent's stream

    def add_layer(self, layer: int, parent: Tensor, other: Tensor) -> None:
        error = (parent - other).double().square().sum()
        self.squares[layer] += torch.stack([error, parent.double().square().sum()])

    def add_logits(self, parent: Tensor, other: Tensor, positions: Tensor) -> None:
        self.kl.append(kl_divergence(parent, other).nan_to_num(nan=torch.inf))
        self.positions.append(positions)
        self.num_same += int((parent.argmax(-1) == other.argmax(-1)).sum())

    def add_targets(self, logits: Tensor, targets: Tensor) -> None:
        """Targets [R], -100 where the text ends."""
        self.nats += float(F.cross_entropy(logits.double(), targets, ignore_index=-100, reduction="sum"))
        self.num_predicted += int((targets >= 0).sum())

    @property
    def perplexity(self) -> float:
        return float(torch.tensor(self.nats / max(1, self.num_predicted)).exp())

    def effect(self, directory: Path) -> Effect:
        kl, positions = torch.cat(self.kl), torch.cat(self.positions)
        buckets, start = {}, 0
        for end in BUCKETS:
            inside = kl[(positions >= start) & (positions < end)]
            if len(inside):
                buckets[end] = float(inside.mean())
            start = end
        at_99 = kl.sort().values[-(-99 * len(kl) // 100) - 1]
        errors = (self.squares[:, 0] / self.squares[:, 1]).sqrt().tolist()
        share = self.num_same / len(kl)
        return Effect(
            str(directory),
            weight_bytes(directory),
            self.perplexity,
            float(kl.mean()),
            float(at_99),
            share,
            buckets,
            errors,
        )


def weight_bytes(directory: Path) -> int:
    """Bytes of a checkpoint's weight files."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


@torch.inference_mode()
def measure_quantization(
    parent: Path,
    others: Sequence[Path],
    examples: Sequence[Sequence[int]],
    num_positions: int,
    num_valid: int,
    log: Log = lambda _text: None,
) -> QuantizationReport:
    """Compares checkpoints with their parent over `num_positions` contexts and ids below `num_valid`.

    examples: token ids, one list a text. SettingError where the shapes differ or the text is too short.
    """
    check_positions(parent, examples, num_positions)
    config = load_config(parent)
    for other in others:
        if (found := load_config(other)) and (found.num_layers, found.hidden_size, found.vocab_size) != (
            config.num_layers, config.hidden_size, config.vocab_size,
        ):  # fmt: skip
            raise SettingError(
                f"{other} has another shape than {parent}; compare a model with the one it was made from"
            )
    models = [load_model(directory) for directory in (parent, *others)]
    tallies = [_Tally(config.num_layers) for _ in models]
    progress = Progress("quantisation", num_positions, log)
    num_done = 0
    for contexts in batches(examples, num_positions):
        batch = dense_batch(contexts.examples, config.position)
        lengths = [len(example) for example in contexts.examples]
        positions = torch.cat([torch.arange(length) for length in lengths])
        targets = torch.cat([_targets(example) for example in contexts.examples])
        hidden = _hidden_side_by_side(models, batch, tallies)
        for rows in contexts.is_new.nonzero()[:, 0].split(ROWS_AT_ONCE):
            logits = [
                model.lm_head(one[rows])[:, :num_valid].float() for model, one in zip(models, hidden, strict=True)
            ]
            for tally, own in zip(tallies, logits, strict=True):
                tally.add_logits(logits[0], own, positions[rows])
                tally.add_targets(own, targets[rows])
            num_done += len(rows)
        progress.show(num_done)
    effects = [tally.effect(directory) for tally, directory in zip(tallies[1:], others, strict=True)]
    return QuantizationReport(str(parent), weight_bytes(parent), num_done, tallies[0].perplexity, effects)


def _targets(example: Sequence[int]) -> Tensor:
    return torch.tensor([*example[1:], -100])


def _hidden_side_by_side(models: Sequence[QwenModel], batch: ForwardBatch, tallies: Sequence[_Tally]) -> list[Tensor]:
    """The head's input [T, C] of each model; tallies the residual streams of the first and each other."""
    streams = [model.embedding(batch.input_ids) for model in models]
    for layer in range(len(tallies[0].squares)):
        streams = [model.layers[layer](x, model.rotary, batch, None) for model, x in zip(models, streams, strict=True)]
        for tally, stream in zip(tallies, streams, strict=True):
            tally.add_layer(layer, streams[0], stream)
    return [model.normed(x, batch) for model, x in zip(models, streams, strict=True)]


def plot(report: QuantizationReport, path: Path) -> None:
    """Writes a picture: KL by position, and the error by layer, a line for each checkpoint."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    by_position = figure.add_subplot(1, 2, 1, xlabel="position (tokens)", ylabel="KL from the parent (nats)")
    by_layer = figure.add_subplot(1, 2, 2, xlabel="block", ylabel="error of the residual stream")
    for effect in report.effects:
        name = Path(effect.name).name
        by_position.plot(list(effect.kl_by_position), list(effect.kl_by_position.values()), "o-", label=name)
        by_layer.plot(range(1, len(effect.error_by_layer) + 1), effect.error_by_layer, "o-", label=name)
    by_position.set_xscale("log", base=2)
    for axes in (by_position, by_layer):
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_write(path) as unfinished:
        canvas = FigureCanvasSVG(figure)
        canvas.print_svg(str(unfinished), metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
