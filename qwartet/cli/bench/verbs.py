"""`qwartet bench`: measured speed, compared with the limits of the machine and with a peer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwartet import DEMO
from qwartet.cli.bench.evaluation import evaluation
from qwartet.cli.bench.figures import kernels_line, log
from qwartet.cli.bench.finetune import finetune
from qwartet.cli.bench.quantization import quantization
from qwartet.cli.bench.render import render
from qwartet.cli.bench.server_cost import server_cost
from qwartet.cli.bench.serving import serving
from qwartet.cli.bench.sizes import sizes
from qwartet.cli.bench.throughput import throughput
from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.language.columns import right_aligned
from qwartet.cli.option_groups import with_groups
from qwartet.cli.options import Activations, Head, JsonLine, KvCacheDtype, Threads, set_threads
from qwartet.cli.terminal import json_line, one_line, untranslated_line
from qwartet.cli.units import format_bytes
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve
from qwartet.models.shapes import SHAPES, shape_of

if TYPE_CHECKING:
    from qwartet.bench.ceilings import Ceilings
    from qwartet.bench.kernels import KernelResult
    from qwartet.bench.latency import LatencyReport
    from qwartet.bench.numerics import Agreement

app = typer.Typer(rich_markup_mode=None)
app.command()(throughput)
app.command()(serving)
app.command()(server_cost)
app.command()(evaluation)
app.command()(finetune)
app.command()(quantization)
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
        raise SettingError(f"{name} is {text!r}; write whole numbers separated by commas, such as 1,8,512") from None


@app.command()
def kernels(
    shapes: Annotated[str, typer.Option(help="Published model sizes, comma-separated.")] = "1.8b,7b,14b,72b",
    rows: Annotated[str, typer.Option(help="Numbers of tokens, comma-separated.")] = "1,4,8,16,512",
    activations: Annotated[str, typer.Option(help="int8, exact or both, comma-separated.")] = "int8,exact",
    context: Annotated[int, typer.Option(help="Context length for attention, in tokens.")] = 8192,
    threads: Threads = None,
    as_json: JsonLine = False,
) -> None:
    """Measure the native kernels at the published shapes."""
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
        what = f"{result.shape:>5} {result.operation:<28} x {result.rows:<4}"
        share = translate(f"{result.share:4.0%} of {result.bound}")
        print(f"{what} {result.seconds * 1e3:9.3f} ms {speed}  {share}")

    ceilings, results = measure_kernels(
        wanted, _numbers(rows, "rows"), tuple(m for m in ("int8", "exact") if m in modes), context, show
    )
    _print_ceilings(ceilings)
    if as_json:
        print(json_line(results_dict(ceilings, results)))


def _print_ceilings(ceilings: Ceilings) -> None:
    speeds = (
        f"ceilings of this run, {ceilings.threads} threads: read {ceilings.read_gb_s:.1f} GB/s, int8 "
        f"{ceilings.int8_gop_s:.0f}, bf16 {ceilings.bf16_gop_s:.0f}, fp32 {ceilings.fp32_gop_s:.0f} Gop/s"
    )
    print(one_line(speeds))
    if ceilings.is_low:
        before = f"memory was read at {ceilings.best_read_gb_s:.1f} GB/s on this machine before"
        print(one_line(f"{before}: something else is using it"))


@app.command()
def latency(
    model: Annotated[str, typer.Argument(help="Checkpoint directory or hub id; `qwartet synth` makes a checkpoint.")],
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    generate: Annotated[int, typer.Option(help="Tokens to generate.")] = 64,
    context: Annotated[int, typer.Option(help="Tokens of context before the generated ones.")] = 0,
    batch: Annotated[str, typer.Option(help="Batch sizes to measure too, comma-separated: 1,4,8,16.")] = "",
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
    lines = (
        kernels_line(report.kernels),
        f"prefill  {report.prefill_tok_s:9.1f} tok/s  {report.int8_gop_s:7.0f} Gop/s, {report.mfu:.0%} of int8",
        f"decode   {report.decode_tok_s:9.1f} tok/s  {report.read_gb_s:7.1f} GB/s, {report.mbu:.0%} of the bandwidth",
        *(f"batch {size:<3}{speed:9.1f} tok/s in total" for size, speed in report.batch_tok_s.items()),
        f"loaded in {report.load_s:.2f} s; peak memory {format_bytes(report.peak_rss_bytes)}",
    )
    for line in lines:
        print(one_line(line))


@app.command()
def peer(
    shape: Annotated[
        str, typer.Argument(help="Published model size (1.8b, qwen2.5-1.5b ...); both sides run random weights.")
    ],
    llama_bench: Annotated[Path, typer.Option(help="llama.cpp's llama-bench.")],
    batched_bench: Annotated[Path | None, typer.Option(help="llama.cpp's llama-batched-bench, for batches.")] = None,
    ours: Annotated[str | None, typer.Option(help="Command to compare with; its last line is JSON.")] = None,
    gguf: Annotated[Path | None, typer.Option(help="GGUF file; created if it does not exist.")] = None,
    body: Annotated[Literal["q4_0", "q8_0"], typer.Option(help="Type of the peer's linear layers.")] = "q4_0",
    head: Annotated[Literal["f16", "q4_0", "q8_0", "q6_k"], typer.Option(help="Type of the peer's head.")] = "f16",
    threads: Annotated[int, typer.Option(help="Threads of the peer.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds, in which the two take turns.")] = 3,
    layers: Annotated[int | None, typer.Option(help="Fewer layers, for a quick look.", show_default="all")] = None,
    as_json: JsonLine = False,
) -> None:
    """Compare llama.cpp and Qwartet on one shape, in turns."""
    from qwartet.bench.peers.run import PeerSettings, measure_peer, report_lines

    published = shape_of(shape)
    size = published if layers is None else replace(published, num_layers=layers)
    report = measure_peer(PeerSettings(size, llama_bench, batched_bench, ours, threads, rounds, body, head, gguf), log)
    for line in report_lines(report):
        print(untranslated_line(line))
    if as_json:
        print(json_line(report.to_dict()))


@app.command()
def report(
    model: Annotated[str, typer.Argument(help="Int4 checkpoint of the 1.8B shape (qwartet synth 1.8b).")],
    llama_bench: Annotated[Path, typer.Option(help="llama.cpp's llama-bench.")],
    batched_bench: Annotated[Path, typer.Option(help="llama.cpp's llama-batched-bench.")],
    gguf: Annotated[Path, typer.Option(help="The same shape as GGUF (qwartet bench peer --gguf writes it).")],
    out: Annotated[Path, typer.Option(help="File for the raw figures: docs/performance/NAME.json.")],
    threads: Annotated[int, typer.Option(help="Threads of both sides.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds, in which the two take turns.")] = 3,
    shapes: Annotated[str, typer.Option(help="Published sizes for single linear layers, comma-separated.")] = "7b,72b",
) -> None:
    """Measure all figures of docs/performance.md.

    Qwartet and llama.cpp take turns; it takes about 15 minutes.
    """
    from qwartet.bench.report import ReportSettings, measure_report

    settings = ReportSettings(resolve(model), llama_bench, batched_bench, gguf, threads, rounds, shapes)
    raw = measure_report(settings, log)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(one_line(f"{out}: written; qwartet bench render writes the document"))


@dataclass(frozen=True)
class ComparisonOptions:
    """What a model is compared on, position by position."""

    text: Annotated[
        Path, typer.Option(help='Conversations the model was not trained on, one {"messages": [...]} per line.')
    ]
    model: Annotated[
        str | None, typer.Argument(help="GPTQ checkpoint directory or hub id.", show_default="the bundled model")
    ] = None
    positions: Annotated[int, typer.Option(help="Positions to compare; equal contexts count once.")] = 20_000
    threads: Threads = None
    as_json: JsonLine = False

    def measure(self, measure: Callable[..., Any]) -> tuple[Path, Any]:
        """The model's directory, and the report of `measure`; sets the threads first."""
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
    """Measure the error of each activation precision.

    It compares with a reference in fp32, with and without outliers in the inputs.

    For the bundled model, python -m recipes.demo.heldout build/heldout.jsonl writes the text.
    """
    from qwartet.bench.numerics import MAX_MEAN_KL, MIN_AGREEMENT, measure_numerics

    directory, report = options.measure(measure_numerics)
    print(one_line(f"{directory}: native kernels ({report.isa}) against the reference in fp32"))
    _print_agreement(report.variants)
    survivors = ", ".join(report.survivors()) or label("none")
    bounds = f"mean KL <= {MAX_MEAN_KL} nats and top-1 >= {MIN_AGREEMENT:.1%}"
    print(one_line(f"activations with {bounds} in both: {survivors}"))
    if options.as_json:
        print(json_line({"model": str(directory), **report.to_dict()}))


@app.command()
@with_groups
def kv_cache(*, options: ComparisonOptions) -> None:
    """Measure the error of each KV cache dtype.

    It compares probabilities, with and without outliers in the keys.

    For the bundled model, python -m recipes.demo.heldout build/heldout.jsonl writes the text.
    """
    from qwartet.bench.cache_numerics import measure_cache_numerics

    directory, report = options.measure(measure_cache_numerics)
    print(one_line(f"{directory}: KV cache dtypes ({report.isa or 'no native'} kernels) against fp32 over fp32"))
    _print_agreement(report.variants)
    if options.as_json:
        print(json_line({"model": str(directory), **report.to_dict()}))


def _print_agreement(variants: dict[str, dict[str, Agreement]]) -> None:
    from qwartet.bench.numerics import MARGIN

    headings = (("positions", 10), ("mean KL", 11), ("99.9 %", 11), ("largest", 11), ("top-1", 10))
    columns = "".join(right_aligned(label(heading), width) for heading, width in headings)
    print(f"{'':<20}{columns}   {translate(f'margin > {MARGIN}')}")
    for variant, rows in variants.items():
        print(variant)
        for name, row in rows.items():
            kl = "".join(f"{value:>11.2e}" for value in (row.mean_kl, row.p999_kl, row.max_kl))
            clear = translate(f"{row.clear_share:.1%} of all")
            verdict = label("ok" if row.is_within_bounds else "MISSED")
            print(f"  {name:<18}{row.num_positions:>10}{kl}{row.top1:>10.3%}   {clear}  {verdict}")
