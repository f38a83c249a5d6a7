"""`qwartet cache`: shows or clears the cache of repacked weights."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from qwartet.cli.options import AsJson
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes


def cache(
    action: Annotated[Literal["show", "clear"], typer.Argument(help="show, or clear to delete all of it.")] = "show",
    as_json: AsJson = False,
) -> None:
    """Show or clear the cache of repacked weights.

    The cache is in $QWARTET_CACHE, else $XDG_CACHE_HOME/qwartet, else ~/.cache/qwartet. Everything in it can be
    rebuilt, and running models are not affected.
    """
    from qwartet.checkpoint.cache_directory import packed_directory

    directory = packed_directory()
    files = [path for path in sorted(directory.glob("*")) if path.is_file()] if directory.is_dir() else []
    num_bytes = sum(path.stat().st_size for path in files)
    if action == "clear":
        for path in files:
            path.unlink(missing_ok=True)
    num_files = sum(path.suffix == ".safetensors" for path in files)
    if as_json:
        report = {"directory": str(directory), "files": num_files, "bytes": num_bytes, "removed": action == "clear"}
        print(json_line(report))
        return
    what = "file" if num_files == 1 else "files"
    verb = "removed" if action == "clear" else "kept"
    print(one_line(f"{directory}: {num_files} {what} of repacked weights, {format_bytes(num_bytes)}, {verb}"))
