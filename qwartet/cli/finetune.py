"""`qwartet finetune`: train a checkpoint, or an adapter for it, on conversations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwartet.cli.extras import require
from qwartet.cli.language.catalogue import label, listed, translate
from qwartet.cli.option_groups import with_groups
from qwartet.cli.options import AsJson, Threads, set_threads
from qwartet.cli.progress import progress_console
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.errors import SettingError
from qwartet.finetune.settings import TARGETS, Settings

if TYPE_CHECKING:
    from qwartet.finetune.reports import OnProgress, Progress, Summary

SECONDS_BETWEEN_LINES = 30.0  # of progress, without a bar


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a run; None is the default of its method."""

    objective: Annotated[
        Literal["sft", "dpo"],
        typer.Option(
            help="Learn the answers of conversations (sft), or to prefer an answer over another (dpo): "
            "data with 'prompt', 'chosen' and 'rejected'."
        ),
    ] = Settings.objective
    dpo_beta: Annotated[float, typer.Option(help="For dpo: how strongly to stay near the model before training.")] = (
        Settings.dpo_beta
    )
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak learning rate.", show_default="1e-5 for full, else 3e-4; for dpo 1e-6 and 1e-5"),
    ] = None
    num_train_epochs: Annotated[float, typer.Option(help="Passes over the data.")] = Settings.num_train_epochs
    max_steps: Annotated[int, typer.Option(help="Stop after this many steps; -1: as many as the epochs have.")] = (
        Settings.max_steps
    )
    per_device_train_batch_size: Annotated[
        int | None, typer.Option(help="Conversations computed at once.", show_default="1 for full, else 2")
    ] = None
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option(help="Such batches in a step.", show_default="16 for full, else 8")
    ] = None
    tokens_per_batch: Annotated[
        int | None,
        typer.Option(
            "--tokens-per-batch", "--packing",
            help="Packing: fill batches with conversations up to this many tokens, instead of a fixed number of them.",
        ),
    ] = None  # fmt: skip
    model_max_length: Annotated[int, typer.Option(help="Cut conversations at this many tokens.")] = (
        Settings.model_max_length
    )
    loss_on: Annotated[
        Literal["published", "assistant"],
        typer.Option(help="Tokens to learn: answers and the markers of all turns, as published, or answers only."),
    ] = Settings.loss_on
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = Settings.weight_decay
    adam_beta1: Annotated[float, typer.Option(help="First beta of AdamW.")] = Settings.adam_beta1
    adam_beta2: Annotated[float, typer.Option(help="Second beta of AdamW.")] = Settings.adam_beta2
    adam_epsilon: Annotated[float, typer.Option(help="Epsilon of AdamW.")] = Settings.adam_epsilon
    max_grad_norm: Annotated[float, typer.Option(help="Clip the gradient's norm at this value; 0: never.")] = (
        Settings.max_grad_norm
    )
    warmup_ratio: Annotated[float, typer.Option(help="Fraction of the steps in which the learning rate rises.")] = (
        Settings.warmup_ratio
    )
    lr_scheduler_type: Annotated[
        Literal["cosine", "linear", "constant"], typer.Option(help="How the learning rate falls after its rise.")
    ] = Settings.lr_scheduler_type
    dtype: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        typer.Option(help="Data type of matrix products; trained weights are fp32 until they are saved."),
    ] = Settings.dtype
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Compute activations twice instead of keeping them in memory.")
    ] = Settings.gradient_checkpointing
    lora_r: Annotated[int, typer.Option(help="Rank of the adapter.")] = Settings.lora_r
    lora_alpha: Annotated[float, typer.Option(help="The adapter's output is scaled by alpha / rank.")] = (
        Settings.lora_alpha
    )
    lora_dropout: Annotated[float, typer.Option(help="Dropout before the adapter.")] = Settings.lora_dropout
    lora_target_modules: Annotated[str, typer.Option(help="Linears with an adapter, separated by commas.")] = ",".join(
        TARGETS
    )
    modules_to_save: Annotated[
        str | None,
        typer.Option(
            help="Modules that LoRA trains whole, separated by commas; an empty text: none.",
            show_default="wte,lm_head for a base model, none for a chat model",
        ),
    ] = None
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.")] = Settings.save_steps
    save_total_limit: Annotated[int, typer.Option(help="Checkpoints to keep.")] = Settings.save_total_limit
    logging_steps: Annotated[int, typer.Option(help="Steps between entries of log.jsonl.")] = Settings.logging_steps
    eval_steps: Annotated[
        int | None, typer.Option(help="Steps between evaluations.", show_default="those between checkpoints")
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the data's order, the adapter's weights and dropout.")] = (
        Settings.seed
    )
    tensorboard: Annotated[bool, typer.Option(help="Write curves for TensorBoard too, into the output directory.")] = (
        Settings.tensorboard
    )


@with_groups
def finetune(
    *,
    model: Annotated[str, typer.Argument(help="Checkpoint directory or hub id.")],
    data: Annotated[
        Path, typer.Option("--data", "--data-path", help="Conversations to train on (.json, .jsonl).", metavar="FILE")
    ],
    output: Annotated[
        Path, typer.Option("--output", "--output-dir", help="Directory for the result and its checkpoints.")
    ],
    method: Annotated[
        Literal["full", "lora", "qlora"],
        typer.Option(help="Train all weights, a LoRA adapter, or one for an Int4 or Int8 checkpoint (Q-LoRA)."),
    ] = "lora",
    eval_data: Annotated[
        Path | None,
        typer.Option("--eval-data", "--eval-data-path", help="Conversations to evaluate on.", metavar="FILE"),
    ] = None,
    options: TrainingOptions,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output directory.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output directory.")] = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to compute on.")] = "auto",
    deepspeed: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="DeepSpeed configuration, as recipes/finetune/zero2.json."),
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train all weights, or a LoRA adapter, on conversations.

    The file of conversations has the published form, {"conversations": [{"from": "user", "value": "..."}, ...]}, or
    {"messages": [{"role": "user", "content": "..."}, ...]}. Option names and defaults are those of the published
    scripts; underscores are accepted too.

    The result runs with qwartet chat. A stopped run continues with the same command and --resume, and ends as if it had
    not been stopped. Several GPUs: see docs/finetune.md.
    """
    require("finetune", "finetune", "transformers", "accelerate", "peft", "matplotlib")
    if options.tensorboard:
        require("finetune", "--tensorboard", "tensorboard")
    if deepspeed is not None and find_spec("deepspeed") is None:
        raise SettingError("--deepspeed needs deepspeed; install it: pip install deepspeed")
    from qwartet.finetune.run import Request, is_first_process
    from qwartet.finetune.run import finetune as run
    from qwartet.finetune.settings import settings_for

    set_threads(threads)
    given = vars(options) | {
        "lora_target_modules": _names(options.lora_target_modules),
        "modules_to_save": None if options.modules_to_save is None else _names(options.modules_to_save),
    }
    settings = settings_for(method, **given)
    request = Request(
        model, data, output, settings, eval_data, resume=resume, overwrite=overwrite, device=device, deepspeed=deepspeed
    )
    if not is_first_process():
        run(request)
        return
    with _progress() as on_progress:
        summary = run(request, on_progress)
    if as_json:
        print(json_line(summary.to_json()))
    else:
        _print(summary)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace(",", " ").split())


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """Shows steps, losses and the time left on stderr: a bar on a terminal, else a line now and then."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console, redraws = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Bar(*columns, TextColumn(label("left")), TimeRemainingColumn(), console=console, disable=not redraws)
    task = bar.add_task(translate("loading the model"), total=None)
    shown = time.monotonic()

    def on_progress(state: Progress) -> None:
        nonlocal shown
        parts = [f"{translate(f'epoch {state.epoch:.2f}')}"]
        if state.loss is not None:
            parts.append(f"{label('loss')} {state.loss:.4f}")
        if state.eval_loss is not None:
            parts.append(f"{label('eval loss')} {state.eval_loss:.4f}")
        parts.append(f"{state.tokens_per_second:.0f} tok/s")
        text = listed(parts)
        bar.update(task, total=state.num_steps, completed=state.step, description=text)
        is_last = state.step == state.num_steps
        if not redraws and (is_last or time.monotonic() - shown >= SECONDS_BETWEEN_LINES):
            shown = time.monotonic()
            console.print(f"{state.step} / {state.num_steps}: {text}")

    try:
        with bar:
            yield on_progress
    except KeyboardInterrupt:
        console.print(translate("stopped; run the same command with --resume to continue after the last checkpoint"))
        raise


def _print(summary: Summary) -> None:
    def ends(losses: list[tuple[int, float]]) -> str:
        return f"{losses[0][1]:.4f} -> {losses[-1][1]:.4f}"

    rows: list[tuple[str, Any]] = [("steps", f"{summary.steps} ({summary.epochs:g} epochs)")]
    if summary.losses:
        rows.append(("loss", ends(summary.losses)))
    if summary.eval_losses:
        rows.append(("eval loss", ends(summary.eval_losses)))
    rows += [
        ("trained", f"{summary.trained_parameters:,} parameters"),
        ("speed", f"{summary.tokens_per_second:.0f} tok/s"),
        ("peak memory", format_bytes(summary.peak_memory_bytes)),
        ("files", f"{summary.output}: {', '.join(summary.files)}"),
    ]
    for name, value in rows:
        print(one_line(f"{label(name)}: {translate(str(value))}"))
