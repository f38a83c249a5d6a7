"""`qwartet merge`: a LoRA adapter and its base become one checkpoint."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qwartet.cli.options import AsJson
from qwartet.cli.progress import byte_progress
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.hub.resolve import resolve


def merge(
    adapter: Annotated[Path, typer.Argument(help="Directory of a LoRA adapter, as qwartet finetune or PEFT saves it.")],
    output: Annotated[Path, typer.Option("--output", "--output-dir", help="New directory for the merged checkpoint.")],
    base: Annotated[
        str | None,
        typer.Option(help="Float checkpoint or hub id that the adapter was trained on.", show_default="as it says"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge a LoRA adapter into its float base model.

    Shard by shard, in fp32, rounded once. Quantised checkpoints cannot hold an adapter: merge into the float model,
    then use qwartet quantize. An interrupted run leaves nothing behind.
    """
    from qwartet.finetune.merge import base_of
    from qwartet.finetune.merge import merge as run

    started = time.perf_counter()
    directory = resolve(base_of(adapter) if base is None else base)
    with byte_progress("merging", "merged") as on_bytes:
        merged = run(adapter, directory, output, on_bytes)
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        print(json_line(asdict(merged) | {"seconds": seconds}))
    else:
        changed = f"{merged.linears} linears merged, {merged.replaced} modules replaced"
        print(one_line(f"{output}: {format_bytes(merged.bytes)}, {changed}, in {seconds:.1f} s"))
