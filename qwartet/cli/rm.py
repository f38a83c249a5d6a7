"""`qwartet rm`: a model off this machine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qwartet.cli.options import AsJson, Revision
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.errors import SettingError


def rm(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Id on a hub, as qwartet list shows it.")],
    revision: Revision = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a downloaded model from this machine.

    Its record and its repacked weights go with it. All its commits are removed, or only the one of --revision; files
    that other commits share stay.
    """
    from qwartet.hub.stored import find_stored, removal_of

    found = find_stored(model, revision)
    removed = []
    for stored in found:
        removal = removal_of(stored)
        commit = f", commit {stored.commit}" if stored.commit else ""
        what = one_line(f"{stored.name}{commit}: {format_bytes(removal.num_bytes)} in {stored.directory}")
        if not yes and not _agrees(what):
            print(f"kept: {what}", file=sys.stderr)
            continue
        removal.execute()
        removed.append({"name": stored.name, "commit": stored.commit, "bytes": removal.num_bytes})
        if not as_json:
            print(f"removed: {what}")
    if as_json:
        print(json_line({"removed": removed}))


def _agrees(what: str) -> bool:
    """Whether the person at the terminal says yes; SettingError where there is none."""
    if not sys.stdin.isatty():
        raise SettingError(f"{what} would be removed; give --yes, since nobody can be asked here")
    print(f"remove {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
