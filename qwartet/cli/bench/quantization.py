"""`qwartet bench quantization`: what quantising a model costs, by position and by layer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwartet.cli.bench.figures import log
from qwartet.cli.language.catalogue import label
from qwartet.cli.language.columns import right_aligned
from qwartet.cli.options import JsonLine, Threads, set_threads
from qwartet.cli.terminal import json_line, one_line
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve

if TYPE_CHECKING:
    from qwartet.bench.quantization import QuantizationReport


def quantization(
    parent: Annotated[str, typer.Argument(help="The float model: checkpoint directory or hub id.")],
    models: Annotated[list[str], typer.Argument(help="Quantised checkpoints made from it.")],
    text: Annotated[
        Path, typer.Option(help='Conversations the model was not trained on, one {"messages": [...]} per line.')
    ],
    positions: Annotated[int, typer.Option(help="Positions to compare; equal contexts count once.")] = 20_000,
    plot: Annotated[Path | None, typer.Option(help="SVG file for a picture by position and layer.")] = None,
    threads: Threads = None,
    as_json: JsonLine = False,
) -> None:
    """Measure what quantisation costs.

    It compares checkpoints with their float parent: KL divergence, top-1 tokens, perplexity, and the error behind each
    block.
    """
    from qwartet.bench.contexts import read_examples
    from qwartet.bench.quantization import measure_quantization
    from qwartet.bench.quantization import plot as write_plot
    from qwartet.models.families import load_config
    from qwartet.models.vocabulary_files import load_tokenizer

    if plot is not None and find_spec("matplotlib") is None:
        raise SettingError("--plot needs matplotlib; install it: pip install 'qwartet[evaluate]'")
    directory, others = resolve(parent), [resolve(model) for model in models]
    set_threads(threads)
    tokenizer = load_tokenizer(directory)
    examples = read_examples(text, tokenizer, load_config(directory).position.max_length)
    report = measure_quantization(directory, others, examples, positions, tokenizer.num_tokens, log)
    _print(report)
    if plot is not None:
        write_plot(report, plot)
    if as_json:
        print(json_line(report.to_dict()))


def _print(report: QuantizationReport) -> None:
    headings = (("MB", 9), ("mean KL", 11), ("99 %", 11), ("top-1", 10), ("perplexity", 12))
    print(f"{'':<24}" + "".join(right_aligned(label(heading), width) for heading, width in headings))
    columns = f"{report.parent_bytes / 1e6:>9.1f}{'':>11}{'':>11}{'':>10}{report.perplexity:>12.4f}"
    print(f"{one_line(Path(report.parent).name):<24}{columns}")
    for effect in report.effects:
        columns = f"{effect.num_bytes / 1e6:>9.1f}{effect.mean_kl:>11.2e}{effect.p99_kl:>11.2e}"
        columns += f"{effect.top1:>10.2%}{effect.perplexity:>12.4f}"
        print(f"{one_line(Path(effect.name).name):<24}{columns}")
