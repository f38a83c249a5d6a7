"""What a run reports: events for a progress bar, log.jsonl, a plot of the loss, and a summary."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from qwartet.files import atomic_write

LOG, PLOT = "log.jsonl", "loss.png"


@dataclass(frozen=True)
class Progress:
    """The state of a run after a step."""

    step: int
    num_steps: int
    epoch: float
    loss: float | None
    eval_loss: float | None
    tokens_per_second: float


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Summary:
    """What a run did; losses are pairs of (step, loss)."""

    output: str
    steps: int
    epochs: float
    losses: list[tuple[int, float]]
    eval_losses: list[tuple[int, float]]
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    trained_parameters: int
    files: list[str]

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return asdict(self)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Appends to log.jsonl what the trainer logs, and passes progress on; only on the first process."""

    def __init__(self, output: Path, on_progress: OnProgress | None) -> None:
        self.path, self.on_progress = output / LOG, on_progress
        self.trainer: Any = None
        self._loss: float | None = None
        self._eval_loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drops what an earlier run logged after the checkpoint that is resumed."""
        if state.is_world_process_zero:
            lines = [entry for entry in read_log(self.path) if entry["step"] <= state.global_step]
            with atomic_write(self.path) as unfinished:
                unfinished.write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs.keys() & {"loss", "eval_loss"}:
            return
        self._loss = logs.get("loss", self._loss)
        self._eval_loss = logs.get("eval_loss", self._eval_loss)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
        self._tell(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not control.should_log:
            self._tell(state)

    def _tell(self, state: Any) -> None:
        if self.on_progress is not None and state.is_world_process_zero:
            speed = self.trainer.tokens_per_second
            self.on_progress(
                Progress(state.global_step, state.max_steps, state.epoch, self._loss, self._eval_loss, speed)
            )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log.jsonl; a last line that a killed run left half-written is dropped."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return [entry for entry in entries if isinstance(entry, dict) and "step" in entry]


def curve(entries: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of a key of the log."""
    return [(int(entry["step"]), float(entry[key])) for entry in entries if key in entry]


def plot(path: Path, losses: Sequence[tuple[int, float]], eval_losses: Sequence[tuple[int, float]]) -> None:
    """Writes a picture of the losses by step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per token)")
    axes.plot(*zip(*losses, strict=True), linewidth=1, label="training")
    if eval_losses:
        axes.plot(*zip(*eval_losses, strict=True), "o-", label="evaluation")
        axes.legend()
    axes.grid(alpha=0.3)
    with atomic_write(path) as unfinished:
        FigureCanvasAgg(figure).print_png(str(unfinished))  # type: ignore[no-untyped-call]


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that was allocated: on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
