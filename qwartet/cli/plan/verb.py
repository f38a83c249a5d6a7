"""`qwartet plan`: does a model fit this machine, or given GPUs? Answered before anything is downloaded or loaded."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from qwartet.cli.options import AsJson, Dtype, Head, Revision, Source, bytes_option, count_option
from qwartet.cli.plan.finetune import finetune_lines, finetune_report
from qwartet.cli.plan.model import find_model
from qwartet.cli.plan.quantize import QuantizeWish, quantize_lines, quantize_report
from qwartet.cli.plan.report import Hardware, report_of
from qwartet.cli.plan.text import report_lines
from qwartet.cli.terminal import json_line, untranslated_line
from qwartet.errors import SettingError
from qwartet.models.shapes import Precision


def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Checkpoint directory, hub id, or published size: 1.8b, 7b, 14b, 72b, qwen2.5-1.5b, qwen3-8b ...",
        ),
    ],
    context: Annotated[
        int | None,
        count_option("Tokens of one request, prompt and answer together; 32K is 32,768.", show_default="the model's"),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Simultaneous requests.")] = 1,
    kv_cache_dtype: Annotated[
        Literal["auto", "bf16", "int8", "int4"], typer.Option(help="auto: the model's compute dtype.")
    ] = "auto",
    precision: Annotated[
        Precision | None, typer.Option(help="Precision of a published size.", show_default="int4")
    ] = None,
    dtype: Dtype = "auto",
    head: Head = "auto",
    gpus: Annotated[int | None, typer.Option(help="Number of GPUs.", show_default="1, 2 and 4")] = None,
    gpu_memory: Annotated[
        int | None, bytes_option("Memory of each GPU, such as 48GiB; GB counts as GiB, as GPU vendors use it.")
    ] = None,
    gpu_bandwidth: Annotated[
        float | None, typer.Option(metavar="GB/S", help="Memory bandwidth of each GPU, to estimate tokens/s.")
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(metavar="GB/S", help="Memory bandwidth of the CPU.", show_default="measured in a second"),
    ] = None,
    finetune: Annotated[
        Literal["qlora", "lora", "full"] | None,
        typer.Option(help="Plan fine-tuning: an adapter on quantised or bf16 weights, or all weights."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Sequences per step of fine-tuning.")] = 1,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 64,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Recompute activations in the backward pass to save memory.")
    ] = True,
    quantize: Annotated[
        Literal["int4", "int8"] | None, typer.Option(help="Plan quantising a float model to this precision.")
    ] = None,
    num_samples: Annotated[int, typer.Option(help="Calibration examples of quantising, of --context tokens.")] = 128,
    spill: Annotated[bool, typer.Option(help="Quantising keeps its activations on a disk.")] = False,
    revision: Revision = None,
    source: Source = "hf",
    as_json: AsJson = False,
) -> None:
    """Show how much memory a model needs and whether it fits.

    It also says what would make it fit, and estimates the decoding speed. Of a local model only config and headers are
    read. A published model needs no files and no network; of any other hub id only config.json is downloaded.
    """
    _check_options(bandwidth, gpu_bandwidth, is_twofold=finetune is not None and quantize is not None)
    found = find_model(model, precision, revision, source, unnamed="int4" if quantize is None else "bf16")
    if quantize is not None:
        wish = QuantizeWish(quantize, num_samples, context, dtype, spill, gpu_memory)
        report, lines = quantize_report(model, found, wish), quantize_lines
    elif finetune is not None:
        from qwartet.planning.finetune_memory import FinetuneLoad

        num_tokens = found.config.position.max_length if context is None else context
        load = FinetuneLoad(finetune, num_tokens, batch_size, lora_rank, gradient_checkpointing)
        report, lines = finetune_report(model, found, load), finetune_lines
    else:
        report = report_of(
            model,
            found,
            Hardware(gpus, gpu_memory, gpu_bandwidth, bandwidth),
            context=context, concurrency=concurrency, kv_cache_dtype=kv_cache_dtype, dtype=dtype, head=head,
        )  # fmt: skip
        lines = report_lines
    if as_json:
        print(json_line(report))
    else:
        for line in lines(report):
            print(untranslated_line(line))


def _check_options(cpu: float | None, gpu: float | None, *, is_twofold: bool) -> None:
    """SettingError for a bandwidth out of bounds, and for two plans at once."""
    if is_twofold:
        raise SettingError("--finetune and --quantize are two plans; choose one")
    for name, value in (("--bandwidth", cpu), ("--gpu-bandwidth", gpu)):
        if value is not None and not 0 < value < 1e6:
            raise SettingError(f"{name} is {value:g}; set GB/s, such as 85 for a desktop CPU or 2039 for an A100")
