"""`qwartet bench sizes`: every published size in turns with llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qwartet.cli.bench.figures import log
from qwartet.cli.terminal import one_line


def sizes(
    llama_bench: Annotated[Path, typer.Option(help="llama.cpp's llama-bench.")],
    out: Annotated[Path, typer.Option(help="File for the raw figures.")],
    directory: Annotated[
        Path, typer.Option(help="Scratch directory for random weights; 14b takes 28 GB, 72b 32 GB for a while.")
    ] = Path("build/sizes"),
    shapes: Annotated[str, typer.Option(help="Published sizes, with commas.")] = "1.8b,7b,14b,72b",
    threads: Annotated[int, typer.Option(help="Threads of both sides.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds of taking turns.")] = 3,
) -> None:
    """Measure every published size in turns with llama.cpp.

    A size that does not fit in memory is measured with 4 and with 12 of its layers. It takes about half an hour.
    """
    from qwartet.bench.sizes import SizesSettings, measure_sizes

    chosen = tuple(name.strip() for name in shapes.split(",") if name.strip())
    raw = measure_sizes(SizesSettings(llama_bench, directory, chosen, threads, rounds), log)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(one_line(f"{out}: written; qwartet bench render makes the table"))
