"""`qwartet rm`: removes a downloaded model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qwartet.cli.options import AsJson, Revision
from qwartet.cli.terminal import json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.errors import SettingError


def rm(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Hub id, as shown by qwartet list.")],
    revision: Revision = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a downloaded model from this machine.

    Its download record and repacked weights are removed too. Without --revision, all its commits are removed; files
    shared with other commits are kept.
    """
    from qwartet.hub.stored import find_stored, removal_of

    found = find_stored(model, revision)
    removed = []
    for stored in found:
        removal = removal_of(stored)
        commit = f", commit {stored.commit}" if stored.commit else ""
        what = f"{stored.name}{commit}: {format_bytes(removal.num_bytes)} in {stored.directory}"
        if not yes and not _agrees(what):
            print(one_line(f"kept: {what}"), file=sys.stderr)
            continue
        removal.execute()
        removed.append({"name": stored.name, "commit": stored.commit, "bytes": removal.num_bytes})
        if not as_json:
            print(one_line(f"removed: {what}"))
    if as_json:
        print(json_line({"removed": removed}))


def _agrees(what: str) -> bool:
    """Whether the user confirms; SettingError without a terminal to ask on."""
    if not sys.stdin.isatty():
        raise SettingError(f"{what} would be removed; pass --yes, since there is no terminal to ask on")
    print(one_line(f"remove {what}? [y/N] "), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
