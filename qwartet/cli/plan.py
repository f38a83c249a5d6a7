"""`qwartet plan`: the memory that a model takes at work, before anything of it is loaded or downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from qwartet.cli.options import AsJson, Dtype, Head, Revision, count_option
from qwartet.cli.terminal import json_line, one_line
from qwartet.errors import ModelNotFoundError, SettingError
from qwartet.hub.resolve import resolve
from qwartet.models.shapes import SHAPES, Precision, gptq_config

if TYPE_CHECKING:
    from qwartet.checkpoint.shards import Checkpoint
    from qwartet.models.config import ModelConfig
    from qwartet.planning.memory_plan import MemoryPlan, StreamForecast
    from qwartet.quant_format.config import GptqConfig


class Model(NamedTuple):
    """What is known of a model from headers and configs."""

    checkpoint: Checkpoint
    config: ModelConfig
    gptq: GptqConfig | None
    num_ranks: int  # of its vocabulary; 0 without one


def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Directory of a checkpoint, downloaded hub id, or published size: 1.8b, 7b, 14b, 72b."
        ),
    ],
    context: Annotated[
        int | None,
        count_option("Tokens of a request, prompt and answer; 32K is 32,768.", show_default="the model's"),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once.")] = 1,
    kv_cache_dtype: Annotated[
        Literal["auto", "bf16", "int8", "int4"], typer.Option(help="auto: what the model computes in.")
    ] = "auto",
    precision: Annotated[Precision | None, typer.Option(help="Of a published size.", show_default="int4")] = None,
    dtype: Dtype = "auto",
    head: Head = "auto",
    gpus: Annotated[int | None, typer.Option(help="GPUs to share it out over.", show_default="1, 2 and 4")] = None,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Show what memory a model takes, before anything of it is loaded: what fits here, and what would.

    Only config and headers are read; for a published size, nothing.
    """
    found = _model(model, precision, revision)
    checkpoint, config, gptq = found.checkpoint, found.config, found.gptq
    # The measure of what a process takes by itself has loaded what a model at work needs.
    import qwartet.llm  # noqa: F401
    from qwartet.models.load import choose_settings
    from qwartet.planning.gpu_memory import gpu_counts, gpu_network, gpu_rows
    from qwartet.planning.memory_plan import MemoryPlan, Workload, cache_kind, network_memory, this_machine

    settings = choose_settings(checkpoint, config, gptq, dtype=dtype, head=head)
    num_tokens = config.position.max_length if context is None else context
    workload = Workload(num_tokens, concurrency, cache_kind(kv_cache_dtype, settings.dtype))
    workload.check(config)
    counts = gpu_counts(config, gpus)
    made = MemoryPlan(network_memory(checkpoint, config, settings), this_machine(), workload, found.num_ranks)
    on_gpus = gpu_network(checkpoint, config, settings)
    report = _report(made, _disk_speed(made, checkpoint))
    report["gpus"] = [_gpu(count, gpu_rows(on_gpus, workload, count)) for count in counts]
    report = {"model": model, "precision": _precision(checkpoint, gptq), **report}
    if as_json:
        print(json_line(report))
    else:
        for line in _lines(report):
            print(one_line(line))


def _model(name: str, precision: Precision | None, revision: str | None) -> Model:
    """Headers and configs of a checkpoint that is here, or of a published size that need not be."""
    size = SHAPES.get(name.lower())  # type: ignore[call-overload]
    if size is not None and (precision is not None or not Path(name).is_dir()):
        if revision is not None:
            raise SettingError(f"--revision belongs to a hub id, and {name} is a published size; leave it out")
        from qwartet.bench.synth import plan_synthesis
        from qwartet.planning.planned_checkpoint import PlannedCheckpoint

        gptq = gptq_config(precision or "int4")
        planned = plan_synthesis(size, gptq)
        tensors = ((tensor.name, tensor.dtype, tensor.shape, tensor.nbytes) for tensor in planned.tensors)
        return Model(PlannedCheckpoint(size.name, tensors), planned.config, gptq, size.num_ranks)
    if precision is not None:
        raise SettingError(
            f"--precision belongs to a published size ({', '.join(SHAPES)}), and {name} is none; leave it out"
        )
    try:
        directory = resolve(name, revision=revision, download=False)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error}; a published size can be planned without: {', '.join(SHAPES)}") from None
    from qwartet.checkpoint.directory import has_file
    from qwartet.checkpoint.expected_tensors import check_dense_shapes, check_names
    from qwartet.checkpoint.shards import Checkpoint
    from qwartet.models.families import layout_of, load_config
    from qwartet.models.load import load_gptq_config

    config, gptq, checkpoint = load_config(directory), load_gptq_config(directory), Checkpoint(directory)
    check_names(checkpoint, layout_of(config), gptq)
    check_dense_shapes(checkpoint, layout_of(config), gptq)
    vocabularies = list(filter(has_file, directory.glob("*.tiktoken")))[:1]
    return Model(checkpoint, config, gptq, sum(file.read_bytes().count(b"\n") for file in vocabularies))


def _precision(checkpoint: Checkpoint, gptq: GptqConfig | None) -> str:
    """What the checkpoint holds: "int4", "int8", "bf16", "fp16" or "fp32"."""
    if gptq is not None:
        return f"int{gptq.bits}"
    return {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}[checkpoint.info("lm_head.weight").dtype]


def _disk_speed(made: MemoryPlan, checkpoint: Checkpoint) -> float | None:
    """Bytes a second of the disk that weights would be streamed from; None where nothing would be, or none is here."""
    from qwartet.files import disk_read_speed

    file = checkpoint.files[0]
    return disk_read_speed(file) if made.stream is not None and file.is_file() else None


def _report(made: MemoryPlan, disk_speed: float | None) -> dict[str, Any]:
    """The plan as plain values, ready for JSON."""
    from qwartet.planning.memory_plan import CACHE_KINDS

    workload, network = made.workload, made.network
    kinds = dict.fromkeys((workload.kind, *CACHE_KINDS))
    return {
        "dtype": str(network.settings.dtype).removeprefix("torch."),
        "context": workload.context,
        "concurrency": workload.concurrency,
        "kv_cache_dtype": workload.kind,
        "max_num_batched_tokens": workload.max_num_batched_tokens,
        "rows": made.rows,
        "weights_bytes": network.weights_bytes,
        "total_bytes": made.total_bytes,
        "free_bytes": made.machine.free_bytes,
        "fits": made.fits,
        "peak_first_start_bytes": made.peak_first_bytes,
        "peak_later_start_bytes": made.peak_later_bytes,
        "kept_on_disk_bytes": network.kept_bytes,
        "peak_unkept_bytes": made.peak_unkept_bytes,
        "largest_context": made.largest_context,
        "largest_concurrency": made.largest_concurrency,
        "kv_caches": [_cache(made.with_workload(kind=kind)) for kind in kinds],
        "weights_fit": network.weights_bytes <= made.machine.free_bytes,
        "stream": _stream(made.stream, disk_speed),
    }


def _cache(made: MemoryPlan) -> dict[str, Any]:
    from qwartet.planning.memory_plan import cache_bytes_per_token

    return {
        "kv_cache_dtype": made.workload.kind,
        "bytes_per_token": cache_bytes_per_token(made.network.config, made.workload.kind),
        "cache_bytes": made.rows["KV cache"],
        "total_bytes": made.total_bytes,
        "fits": made.fits,
        "largest_context": made.largest_context,
        "largest_concurrency": made.largest_concurrency,
    }


def _stream(stream: StreamForecast | None, disk_speed: float | None) -> dict[str, Any] | None:
    if stream is None:
        return None
    seconds = None if disk_speed is None else round(stream.streamed_bytes / disk_speed, 2)
    return {**asdict(stream), "disk_bytes_per_s": disk_speed, "seconds_per_step": seconds}


def _gpu(count: int, rows: dict[str, int]) -> dict[str, Any]:
    return {"gpus": count, "bytes_per_gpu": sum(rows.values()), "rows": rows}


def _gib(num_bytes: int, digits: int = 2) -> str:
    return f"{num_bytes / 2**30:.{digits}f} GiB"


def _requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"


def _lines(report: dict[str, Any]) -> Iterator[str]:
    context, concurrency = report["context"], report["concurrency"]
    yield (
        f"{report['model']} ({report['precision']}), computing in {report['dtype']} on this CPU: "
        f"{_requests(concurrency)} of {context:,} tokens, KV cache {report['kv_cache_dtype']}"
    )
    rows = {**report["rows"], "total": report["total_bytes"], "free here": report["free_bytes"]}
    for name, size in rows.items():
        yield f"  {name:<24}{_gib(size, 3):>13}{size:>19,} B"
    yield _verdict(report)
    yield from _start_lines(report)
    yield ""
    yield f"{'KV cache':<10}{'a token':>13}{'in all':>12}{'total':>12}{'longest context':>17}{'most requests':>15}"
    for kind in report["kv_caches"]:
        yield (
            f"{kind['kv_cache_dtype']:<10}{kind['bytes_per_token']:>11,} B{_gib(kind['cache_bytes']):>12}"
            f"{_gib(kind['total_bytes']):>12}{kind['largest_context']:>17,}{kind['largest_concurrency']:>15,}"
        )
    yield f"longest context for {_requests(concurrency)} at once, most requests at once of {context:,} tokens"
    yield ""
    yield "on GPUs, by calculation: evenly shared out; without the CUDA context (some hundred MB on each)"
    for gpu in report["gpus"]:
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in gpu["rows"].items())
        yield f"  {gpu['gpus']:>2} x {_gib(gpu['bytes_per_gpu']):>10}   {parts}"


def _verdict(report: dict[str, Any]) -> str:
    missing = report["total_bytes"] - report["free_bytes"]
    if missing <= 0:
        return f"fits, {_gib(-missing)} are left"
    if not report["weights_fit"]:
        return f"does not fit: the weights alone take {_gib(report['weights_bytes'])}"
    context, count = report["largest_context"], report["largest_concurrency"]
    options = [f"--context {context}"] if context else []
    options += [f"--concurrency {count}"] if count else []
    smaller = [kind for kind in report["kv_caches"] if kind["fits"]]
    options += [f"--kv-cache-dtype {smaller[0]['kv_cache_dtype']}"] if smaller else []
    return f"does not fit: {_gib(missing)} are missing; what would: {' or '.join(options) or 'a smaller model'}"


def _start_lines(report: dict[str, Any]) -> Iterator[str]:
    first, later = report["peak_first_start_bytes"], report["peak_later_start_bytes"]
    if first > later:
        yield f"the first start takes up to {_gib(first)}, later ones {_gib(later)}"
    if report["kept_on_disk_bytes"]:
        yield f"the first start writes {_gib(report['kept_on_disk_bytes'])} of packed weights to disk for later ones"
        if report["peak_unkept_bytes"] > first:
            yield f"without room for them there, every start takes up to {_gib(report['peak_unkept_bytes'])} of memory"
    elif later > report["total_bytes"]:
        yield f"every start takes up to {_gib(later)} for a moment, while it packs or converts the weights"
    stream = report["stream"]
    if stream is not None:
        yield (
            f"they would be streamed: {stream['num_resident']} of {stream['num_layers']} layers stay in memory, "
            f"{_gib(stream['streamed_bytes'])} are read from disk for every token, or for every "
            f"{report['max_num_batched_tokens']} of a prompt{_seconds(stream)}"
        )
    elif not report["weights_fit"]:
        yield "these settings cannot stream them from disk: loading would be refused, or swap with --force"


def _seconds(stream: dict[str, Any]) -> str:
    seconds, speed = stream["seconds_per_step"], stream["disk_bytes_per_s"]
    return "" if seconds is None else f"; at the {speed / 1e9:.2f} GB/s of this disk that takes {seconds} s"
