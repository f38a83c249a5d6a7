"""`qwartet bench finetune`: the time of a training step of Q-LoRA, compared with dequantised weights."""

from __future__ import annotations

from typing import Annotated

import typer

from qwartet.cli.bench.figures import log, print_figures
from qwartet.cli.options import JsonLine, Threads, set_threads
from qwartet.hub.resolve import resolve


def finetune(
    model: Annotated[str, typer.Argument(help="Quantised checkpoint directory or hub id.")],
    tokens: Annotated[int, typer.Option(help="Tokens per sequence.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Sequences per step.")] = 1,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 64,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Recompute activations in the backward pass to save memory.")
    ] = True,
    peer: Annotated[
        bool, typer.Option(help="Also measure torch linears over dequantised weights; they must fit in memory.")
    ] = True,
    rounds: Annotated[int, typer.Option(help="Measured steps; the two sides take turns.")] = 3,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Random seed of tokens and adapter.")] = 0,
    as_json: JsonLine = False,
) -> None:
    """Measure a Q-LoRA training step.

    A step is forward, backward and AdamW on the adapter.
    """
    from qwartet.bench.finetune import FinetuneSettings, measure_finetune

    directory = resolve(model)
    set_threads(threads)
    settings = FinetuneSettings(
        model=directory,
        tokens=tokens,
        batch_size=batch_size,
        rank=lora_rank,
        gradient_checkpointing=gradient_checkpointing,
        compares=peer,
        rounds=rounds,
        seed=seed,
    )
    print_figures(measure_finetune(settings, log), as_json)
