"""`qwartet pull`: download a model from a hub."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwartet.cli.options import AsJson, Revision, Source
from qwartet.cli.progress import byte_progress
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.errors import SettingError
from qwartet.hub.repository import PUBLISHED_NAMES, parse_repository
from qwartet.hub.resolve import did_you_mean

if TYPE_CHECKING:
    from qwartet.hub.pull import Pulled


def pull(
    model: Annotated[str, typer.Argument(metavar="NAME", help=f"Hub id, such as {PUBLISHED_NAMES[5]}.")],
    revision: Revision = None,
    source: Source = "hf",
    as_json: AsJson = False,
) -> None:
    """Download a model, or resume a download.

    Only data files are downloaded (JSON, vocabulary, safetensors, licence). Each one is verified against the hub's hash
    before it is moved into place; if the hub lists no hash, only the size is compared, and a warning says so. Commit,
    sizes and hashes are recorded. Run the same command again to resume a stopped download.
    """
    repository = parse_repository(model, source)
    if repository is None:
        shown = model if model.isprintable() else repr(model)
        raise SettingError(f"{shown} is not a hub id; pass one such as {PUBLISHED_NAMES[5]}")
    from qwartet.hub.pull import pull_model

    try:
        with byte_progress("downloading", "downloaded") as on_bytes:
            pulled = pull_model(repository, revision, on_bytes=on_bytes, near=did_you_mean(repository))
    except KeyboardInterrupt:
        print(one_line("stopped; run the same command again to resume"), file=sys.stderr)
        raise
    print(json_line(_report(pulled)) if as_json else one_line(_line(pulled)))


def _report(pulled: Pulled) -> dict[str, Any]:
    manifest = pulled.manifest
    files = [
        {"name": file.name, "bytes": file.size, "sha256": file.sha256, "hub_lists_hash": file.blob != ""}
        for file in manifest.files
    ]
    return {
        **asdict(manifest.repository),
        "endpoint": manifest.endpoint,
        "revision": manifest.revision,
        "commit": manifest.commit,
        "directory": str(manifest.directory),
        "bytes": manifest.num_bytes,
        "fetched_files": pulled.num_fetched,
        "files": files,
    }


def _line(pulled: Pulled) -> str:
    manifest = pulled.manifest
    num_files = len(manifest.files)
    fetched = {0: "already complete", num_files: "all downloaded"}.get(
        pulled.num_fetched, f"{pulled.num_fetched} downloaded"
    )
    num_hashed = sum(file.blob != "" for file in manifest.files)
    compared = "all hashes verified"
    if num_hashed < num_files:
        compared = f"{num_hashed} verified by hash, {num_files - num_hashed} by size only"
    if not pulled.num_fetched:
        compared += " at the download"
    return (
        f"{manifest.repository}: {num_files} files, {format_bytes(manifest.num_bytes)}, {fetched}, {compared}; "
        f"commit {manifest.commit}; in {manifest.directory}"
    )
