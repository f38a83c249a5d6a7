"""`qwartet quantize`: quantise a float checkpoint with GPTQ, with progress and the loss of every linear."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwartet.checkpoint.layout import LINEARS
from qwartet.cli.language.catalogue import label, listed, translate
from qwartet.cli.language.columns import padded
from qwartet.cli.progress import progress_console
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve

if TYPE_CHECKING:
    from qwartet.quantize.finished_blocks import QuantizeEvent
    from qwartet.quantize.progress import OnProgress, QuantizeProgress

SECONDS_BETWEEN_LINES = 60.0  # between progress lines within a block, without a bar


def quantize(
    source: Annotated[str, typer.Argument(help="Directory of a float checkpoint, or hub id.")],
    target: Annotated[Path, typer.Argument(help="New directory for the GPTQ checkpoint.")],
    calibration: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Conversations or texts (.json, .jsonl), token ids (.safetensors) or plain text; builtin: a small "
            "mixed set.",
        ),
    ],
    bits: Annotated[int, typer.Option(help="4 or 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Inputs that share a scale; -1: all inputs.")] = 128,
    desc_act: Annotated[
        bool, typer.Option(help="Quantise inputs in order of descending activation: more accurate, slower to run.")
    ] = False,
    act_group_aware: Annotated[
        bool, typer.Option(help="Quantise inputs by descending activation within fixed groups: runs at full speed.")
    ] = False,
    search_scales: Annotated[
        bool, typer.Option(help="Search for the scale of each group that rounds it best.")
    ] = False,
    damp_percent: Annotated[
        float,
        typer.Option(help="Fraction of its mean added to the Hessian's diagonal; doubled while it is singular."),
    ] = 0.01,
    auto_damp: Annotated[
        bool, typer.Option(help="Damp linears more that have few calibration tokens per input.")
    ] = False,
    starved_below: Annotated[
        float,
        typer.Option(
            metavar="TOKENS", help="Round linears to nearest that have fewer calibration tokens than this per input."
        ),
    ] = 0.0,
    num_samples: Annotated[int, typer.Option(help="Examples to use from the calibration file.")] = 128,
    max_len: Annotated[int, typer.Option(help="Cut examples at this many tokens.")] = 2048,
    dtype: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Data type of the forward passes.")] = "fp32",
    spill: Annotated[
        Path | None,
        typer.Option(help="Directory on a fast disk for the activations of the calibration.", show_default="memory"),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to compute on.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Quantise a float checkpoint with GPTQ, in the published layout.

    Files, disk space and memory are checked before the work begins (qwartet plan --quantize shows them). To resume a
    stopped run after its last finished block, run the same command again.
    """
    from qwartet.quant_format.config import GptqConfig
    from qwartet.quantize.calibration import BUILTIN, builtin_calibration, check_counts, read_calibration
    from qwartet.quantize.pipeline import QuantizeOptions, quantize_checkpoint, solver_settings
    from qwartet.quantize.requirements import check_target

    started = time.perf_counter()
    config = GptqConfig(bits=bits, group_size=group_size, desc_act=desc_act, sym=True, damp_percent=damp_percent)
    options = QuantizeOptions(act_group_aware, search_scales, starved_below, auto_damp, spill)
    place = _resolved_device(device)
    solver_settings(config, options)  # only checked here
    check_counts(num_samples, max_len)
    check_target(target)
    content = builtin_calibration() if calibration == BUILTIN else read_calibration(Path(calibration))
    directory = resolve(source)  # may download it, so everything that does not need it has been checked
    examples = content.examples(directory, num_samples=num_samples, max_len=max_len)
    with _progress() as on_progress:
        events = quantize_checkpoint(
            directory, target, config, examples, options=options, device=place, dtype=dtype, on_progress=on_progress
        )
    seconds = time.perf_counter() - started
    size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    if as_json:
        print(json_line(_report(target, size, seconds, examples, events)))
    else:
        _print_losses(events, damp_percent)
        print(one_line(f"{target}: {format_bytes(size)}, quantised in {seconds:.0f} s"))


def _resolved_device(device: str) -> str:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            "--device is cuda, but torch finds no GPU; leave it out to use the CPU, or run qwartet doctor"
        )
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """Shows progress and the time left on stderr: a bar on a terminal, else a line per block and one now and then."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console, redraws = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn(label("left")))
    progress = Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not redraws,
        speed_estimate_period=24 * 3600,  # a step may take minutes
    )  # fmt: skip
    task = progress.add_task(translate("checking the checkpoint"), total=None)
    last_line = time.monotonic()

    def on_progress(state: QuantizeProgress) -> None:
        nonlocal last_line
        block = f"block {state.layer + 1} of {state.num_layers}"
        description = translate(f"{block}, {state.doing}")
        progress.update(task, total=state.work_total, completed=state.work_done, description=description)
        if redraws or not (state.is_block_done or time.monotonic() - last_line >= SECONDS_BETWEEN_LINES):
            return
        last_line = time.monotonic()
        seconds_left = progress.tasks[0].time_remaining
        parts = [f"{block}: {'done by an earlier run' if state.is_resumed else state.doing}"]
        if seconds_left is not None:
            parts.append(f"{timedelta(seconds=int(seconds_left))} left")
        console.print(listed(parts))

    try:
        with progress:
            yield on_progress
    except KeyboardInterrupt:
        console.print(translate("stopped; run the same command again to resume after the last finished block"))
        raise


def _report(
    target: Path, size: int, seconds: float, examples: Sequence[Sequence[int]], events: Sequence[QuantizeEvent]
) -> dict[str, Any]:
    return {
        "target": str(target),
        "bytes": size,
        "seconds": round(seconds, 3),
        "calibration_examples": len(examples),
        "calibration_tokens": sum(map(len, examples)),
        "linears": [asdict(event) for event in events],
    }


def _print_losses(events: Sequence[QuantizeEvent], damp_percent: float) -> None:
    """A row for each block: the loss of its linears, marked where they needed more damping or were only rounded."""
    print(one_line("squared output error per calibration token; * damped more than --damp-percent"))
    if any(event.method == "rtn" for event in events):
        print(one_line("r rounded to nearest: fewer calibration tokens than --starved-below"))
    print(padded(label("block"), 5), *(f"{linear:>16}" for linear in LINEARS))
    for row in (events[start : start + len(LINEARS)] for start in range(0, len(events), len(LINEARS))):
        losses = (f"{event.loss:.4g}{_mark(event, damp_percent)}" for event in row)
        print(f"{row[0].layer:5}", *(f"{loss:>16}" for loss in losses))


def _mark(event: QuantizeEvent, damp_percent: float) -> str:
    return "r" if event.method == "rtn" else "*" * (event.damp_percent > damp_percent)
