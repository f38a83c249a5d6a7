"""`qwartet convert`: pickled weights (*.bin) to safetensors; a confined process reads the pickles."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from qwartet.cli.options import AsJson
from qwartet.cli.progress import byte_progress
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.hub.resolve import resolve


def convert(
    source: Annotated[str, typer.Argument(metavar="DIR", help="Checkpoint directory with *.bin files.")],
    target: Annotated[Path, typer.Argument(help="New directory for the safetensors checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Convert pickled weights (*.bin) to safetensors.

    It accepts pytorch_model*.bin and the *.bin files of quantisers. A separate process without network access, with
    limited memory and time, reads each file with torch's weights-only unpickler, which runs no code. An interrupted
    run leaves nothing behind.
    """
    directory = resolve(source, download=False)
    from qwartet.convert.pickled import convert_pickled

    started = time.perf_counter()
    with byte_progress("converting", "converted") as on_bytes:
        files = convert_pickled(directory, target, on_bytes)
    size = sum((target / name).stat().st_size for name in files)
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        print(json_line({"target": str(target), "files": files, "bytes": size, "seconds": seconds}))
    else:
        print(one_line(f"{target}: {format_bytes(size)} in {len(files)} files, converted in {seconds:.1f} s"))
