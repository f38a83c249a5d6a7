"""`qwartet synth`: a checkpoint of a published size with random weights, for benchmarks."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from qwartet.cli.options import AsJson, count_option
from qwartet.cli.progress import byte_progress
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.errors import SettingError
from qwartet.models.shapes import Method, Precision, Shape, gptq_config, shape_of


def synth(
    shape: Annotated[
        str,
        typer.Argument(help="Published model size: 1.8b, 7b, 14b, 72b, qwen2.5-1.5b, qwen3-8b ..."),
    ],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty directory.")],
    precision: Annotated[
        Precision, typer.Option(help="int4 and int8: quantised linear layers, the rest in fp16.")
    ] = "int4",
    method: Annotated[
        Method, typer.Option("--format", help="Layout of the int4 linear layers; awq is that of AutoAWQ (gemm).")
    ] = "gptq",
    layers: Annotated[
        int | None, typer.Option(help="Fewer layers, for quick benchmarks.", show_default="as published")
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="Group size: inputs that share a scale; -1: all of them.", show_default="128"),
    ] = None,
    desc_act: Annotated[
        bool,
        typer.Option("--desc-act", help="Put inputs into groups at random, as checkpoints with desc_act have them."),
    ] = False,
    vocabulary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=".tiktoken file to include; without it, prompts must be token ids."),
    ] = None,
    counts: Annotated[
        bool,
        typer.Option("--counts", help="Make t + 1 the most probable token after t: predictable output for benchmarks."),
    ] = False,
    shard_size: Annotated[
        int, count_option("Maximum bytes per file; 2000m is 2 GB.", show_default="2000m")
    ] = 2_000_000_000,
    seed: Annotated[int, typer.Option(help="Random seed of the weights.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint of a published size with random weights.

    It is for measuring speed and memory; its answers are noise. An interrupted run leaves nothing behind.
    """
    size = _with_layers(shape_of(shape), layers)
    gptq = gptq_config(precision, group_size, desc_act, method)
    from qwartet.bench.synth import plan_synthesis, write_synthesis

    started = time.perf_counter()
    plan = plan_synthesis(size, gptq, seed=seed, vocabulary=vocabulary, counts=counts)
    with byte_progress("writing", "written") as on_bytes:
        files = write_synthesis(
            plan, target, max_shard_bytes=shard_size, on_bytes=lambda count: on_bytes(count, plan.nbytes)
        )
    report: dict[str, object] = {
        "target": str(target),
        "shape": shape,
        "precision": precision,
        "format": method if gptq is not None else None,
        "layers": size.num_layers,
        "seed": seed,
        "parameters": plan.config.num_parameters,
        "bytes": plan.nbytes,
        "tensors": len(plan.tensors),
        "files": [file.name for file in files],
        "seconds": round(time.perf_counter() - started, 3),
    }
    if as_json:
        print(json_line(report))
    else:
        print(one_line(_summary(report)))


def _with_layers(shape: Shape, layers: int | None) -> Shape:
    if layers is None:
        return shape
    if not 1 <= layers <= shape.num_layers:
        raise SettingError(
            f"--layers is {layers}; {shape.name} has {shape.num_layers}, so it must be between 1 and {shape.num_layers}"
        )
    return replace(shape, num_layers=layers)


def _summary(report: dict[str, object]) -> str:
    files = report["files"]
    assert isinstance(files, list) and isinstance(report["bytes"], int)
    num_files = "1 file" if len(files) == 1 else f"{len(files)} files"
    return (
        "{target}: {shape} {precision}, {layers} layers, random weights (seed {seed}); {size} in {tensors} tensors, "
        "{num_files}, written in {seconds:.1f} s"
    ).format_map({**report, "size": format_bytes(report["bytes"]), "num_files": num_files})
