"""`qwartet bench`: what this machine does, against what it can do at most and against a peer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwartet import DEMO
from qwartet.cli.bench.figures import kernels_line, log
from qwartet.cli.bench.render import render
from qwartet.cli.bench.server_cost import server_cost
from qwartet.cli.bench.serving import serving
from qwartet.cli.bench.sizes import sizes
from qwartet.cli.bench.throughput import throughput
from qwartet.cli.option_groups import with_groups
from qwartet.cli.options import Activations, Head, JsonLine, KvCacheDtype, Threads, set_threads
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve
from qwartet.models.shapes import SHAPES, ShapeName

if TYPE_CHECKING:
    from qwartet.bench.ceilings import Ceilings
    from qwartet.bench.kernels import KernelResult
    from qwartet.bench.latency import LatencyReport
    from qwartet.bench.numerics import Agreement

app = typer.Typer(rich_markup_mode=None)
app.command()(throughput)
app.command()(serving)
app.command()(server_cost)
app.command()(sizes)
app.command()(render)


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure speed and memory."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def _numbers(text: str, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise SettingError(f"{name} is {text!r}; give whole numbers with commas, for example 1,8,512") from None


@app.command()
def kernels(
    shapes: Annotated[str, typer.Option(help="Published sizes, with commas.")] = "1.8b,7b,14b,72b",
    rows: Annotated[str, typer.Option(help="Tokens, with commas.")] = "1,4,8,16,512",
    activations: Annotated[str, typer.Option(help="int8, exact, or both with a comma.")] = "int8,exact",
    context: Annotated[int, typer.Option(help="Tokens of context for attention.")] = 8192,
    threads: Threads = None,
    as_json: JsonLine = False,
) -> None:
    """Measure native operations at the published shapes."""
    from qwartet.bench.kernels import measure_kernels, results_dict

    chosen = [name.strip() for name in shapes.split(",")]
    modes = [name.strip() for name in activations.split(",")]
    for name, known in [(name, SHAPES) for name in chosen] + [(name, ("int8", "exact")) for name in modes]:
        if name not in known:
            raise SettingError(f"{name!r} is unknown; it must be one of {', '.join(known)}")
    set_threads(threads)
    wanted = [shape for name, shape in SHAPES.items() if name in chosen]

    def show(result: KernelResult) -> None:
        speed = f"{result.gb_s:7.1f} GB/s {result.gop_s:8.0f} Gop/s"
        label = f"{result.shape:>5} {result.operation:<28} x {result.rows:<4}"
        print(f"{label} {result.seconds * 1e3:9.3f} ms {speed}  {result.share:4.0%} of {result.bound}")

    ceilings, results = measure_kernels(
        wanted, _numbers(rows, "rows"), tuple(m for m in ("int8", "exact") if m in modes), context, show
    )
    _print_ceilings(ceilings)
    if as_json:
        print(json_line(results_dict(ceilings, results)))


def _print_ceilings(ceilings: Ceilings) -> None:
    print(
        f"ceilings of this run, {ceilings.threads} threads: read {ceilings.read_gb_s:.1f} GB/s, int8 "
        f"{ceilings.int8_gop_s:.0f}, bf16 {ceilings.bf16_gop_s:.0f}, fp32 {ceilings.fp32_gop_s:.0f} Gop/s"
    )
    if ceilings.is_low:
        print(
            f"the memory has read {ceilings.best_read_gb_s:.1f} GB/s on this machine before: something else is using it"
        )


@app.command()
def latency(
    model: Annotated[str, typer.Argument(help="Directory of a checkpoint, or hub id; `qwartet synth` makes one.")],
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    generate: Annotated[int, typer.Option(help="Tokens to write.")] = 64,
    context: Annotated[int, typer.Option(help="Tokens that stand before those written.")] = 0,
    batch: Annotated[str, typer.Option(help="Requests at once, with commas: 1,4,8,16.")] = "",
    activations: Activations = None,
    head: Head = "auto",
    kv_cache_dtype: KvCacheDtype = "auto",
    threads: Threads = None,
    as_json: JsonLine = False,
) -> None:
    """Measure prefill and decode speed of the kernels alone."""
    from qwartet.bench.latency import LatencySettings, measure_latency

    settings = LatencySettings(
        model=resolve(model),
        prompt=prompt,
        generate=generate,
        context=context,
        batches=_numbers(batch, "batch"),
        activations=activations,
        head=head,
        kv_cache_dtype=kv_cache_dtype,
    )
    set_threads(threads)
    report = measure_latency(settings, log)
    _print_latency(report)
    if as_json:
        print(json_line(report.to_dict()))


def _print_latency(report: LatencyReport) -> None:
    _print_ceilings(report.ceilings)
    print(kernels_line(report.kernels))
    print(f"prefill  {report.prefill_tok_s:9.1f} tok/s  {report.int8_gop_s:7.0f} Gop/s, {report.mfu:4.0%} of int8")
    print(f"decode   {report.decode_tok_s:9.1f} tok/s  {report.read_gb_s:7.1f} GB/s, {report.mbu:4.0%} of the memory")
    for size, speed in report.batch_tok_s.items():
        print(f"batch {size:<3}{speed:9.1f} tok/s in all")
    print(f"loaded in {report.load_s:.2f} s; peak memory {format_bytes(report.peak_rss_bytes)}")


@app.command()
def peer(
    shape: Annotated[ShapeName, typer.Argument(help="Published size; both sides get random weights of it.")],
    llama_bench: Annotated[Path, typer.Option(help="llama.cpp's llama-bench.")],
    batched_bench: Annotated[Path | None, typer.Option(help="Its llama-batched-bench, for batches.")] = None,
    ours: Annotated[str | None, typer.Option(help="Command to compare with; its last line is JSON.")] = None,
    gguf: Annotated[Path | None, typer.Option(help="The file to use, written where there is none.")] = None,
    body: Annotated[Literal["q4_0", "q8_0"], typer.Option(help="Type of the peer's linears.")] = "q4_0",
    head: Annotated[Literal["f16", "q4_0", "q8_0", "q6_k"], typer.Option(help="Type of the peer's head.")] = "f16",
    threads: Annotated[int, typer.Option(help="Threads of the peer.")] = 2,
    rounds: Annotated[int, typer.Option(help="How often the two take turns.")] = 3,
    layers: Annotated[int | None, typer.Option(help="Fewer layers, for a quick look.")] = None,
    as_json: JsonLine = False,
) -> None:
    """Measure llama.cpp and Qwartet in turns on one shape."""
    from qwartet.bench.peers.run import PeerSettings, measure_peer, report_lines

    size = SHAPES[shape] if layers is None else replace(SHAPES[shape], num_layers=layers)
    report = measure_peer(PeerSettings(size, llama_bench, batched_bench, ours, threads, rounds, body, head, gguf), log)
    for line in report_lines(report):
        print(line)
    if as_json:
        print(json_line(report.to_dict()))


@app.command()
def report(
    model: Annotated[str, typer.Argument(help="Checkpoint of the 1.8B shape, Int4 (qwartet synth 1.8b).")],
    llama_bench: Annotated[Path, typer.Option(help="llama.cpp's llama-bench.")],
    batched_bench: Annotated[Path, typer.Option(help="Its llama-batched-bench.")],
    gguf: Annotated[Path, typer.Option(help="The same shape for llama.cpp (qwartet bench peer --gguf writes it).")],
    out: Annotated[Path, typer.Option(help="File for the raw figures: docs/performance/NAME.json.")],
    threads: Annotated[int, typer.Option(help="Threads of both sides.")] = 2,
    rounds: Annotated[int, typer.Option(help="How often the two take turns.")] = 3,
    shapes: Annotated[str, typer.Option(help="Published sizes for single linears, with commas.")] = "7b,72b",
) -> None:
    """Measure all figures of docs/performance.md.

    Qwartet and llama.cpp take turns; it takes about 15 minutes.
    """
    from qwartet.bench.report import ReportSettings, measure_report

    settings = ReportSettings(resolve(model), llama_bench, batched_bench, gguf, threads, rounds, shapes)
    raw = measure_report(settings, log)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: written; qwartet bench render makes the document")


@dataclass(frozen=True)
class ComparisonOptions:
    """What a model is compared on, position by position."""

    text: Annotated[
        Path, typer.Option(help='Conversations, one {"messages": [...]} a line, that the model was not trained on.')
    ]
    model: Annotated[
        str | None, typer.Argument(help="Directory of a GPTQ checkpoint, or hub id; the bundled model if left out.")
    ] = None
    positions: Annotated[int, typer.Option(help="Positions to compare at; equal contexts count once.")] = 20_000
    threads: Threads = None
    as_json: JsonLine = False

    def measure(self, measure: Callable[..., Any]) -> tuple[Path, Any]:
        """The model's directory, and what `measure` reports of it; sets the threads first."""
        from qwartet.bench.contexts import read_examples
        from qwartet.models.families import load_config
        from qwartet.models.vocabulary_files import load_tokenizer

        directory = DEMO if self.model is None else resolve(self.model)
        set_threads(self.threads)
        tokenizer = load_tokenizer(directory)
        examples = read_examples(self.text, tokenizer, load_config(directory).position.max_length)
        return directory, measure(directory, examples, self.positions, tokenizer.num_tokens, log)


@app.command()
@with_groups
def numerics(*, options: ComparisonOptions) -> None:
    """Measure the error of each kind of activations.

    The reference computes in fp32; inputs with and without outliers are compared.

    For the bundled model: python -m recipes.demo.heldout build/heldout.jsonl writes the text.
    """
    from qwartet.bench.numerics import MAX_MEAN_KL, MIN_AGREEMENT, measure_numerics

    directory, report = options.measure(measure_numerics)
    print(one_line(f"{directory}: native kernels ({report.isa}) against the reference in fp32"))
    _print_agreement(report.variants)
    survivors = ", ".join(report.survivors()) or "none"
    print(f"activations with mean KL <= {MAX_MEAN_KL} nats and top-1 >= {MIN_AGREEMENT:.1%} in both: {survivors}")
    if options.as_json:
        print(json_line({"model": str(directory), **report.to_dict()}))


@app.command()
@with_groups
def kv_cache(*, options: ComparisonOptions) -> None:
    """Measure the error of each kind of KV cache.

    It compares probabilities, with and without outliers in the keys.

    For the bundled model: python -m recipes.demo.heldout build/heldout.jsonl writes the text.
    """
    from qwartet.bench.cache_numerics import measure_cache_numerics

    directory, report = options.measure(measure_cache_numerics)
    print(one_line(f"{directory}: kinds of KV cache ({report.isa or 'no native'} kernels) against fp32 over fp32"))
    _print_agreement(report.variants)
    if options.as_json:
        print(json_line({"model": str(directory), **report.to_dict()}))


def _print_agreement(variants: dict[str, dict[str, Agreement]]) -> None:
    from qwartet.bench.numerics import MARGIN

    print(f"{'':<20}{'positions':>10}{'mean KL':>11}{'99.9 %':>11}{'largest':>11}{'top-1':>10}   margin > {MARGIN}")
    for variant, rows in variants.items():
        print(variant)
        for name, row in rows.items():
            kl = "".join(f"{value:>11.2e}" for value in (row.mean_kl, row.p999_kl, row.max_kl))
            verdict = "ok" if row.is_within_bounds else "MISSED"
            print(f"  {name:<18}{row.num_positions:>10}{kl}{row.top1:>10.3%}   {row.clear_share:.1%} of all  {verdict}")
