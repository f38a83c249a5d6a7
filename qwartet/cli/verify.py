"""`qwartet verify`: are the files of a model still what was downloaded?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from qwartet.cli.options import AsJson, Revision
from qwartet.cli.progress import byte_progress
from qwartet.cli.terminal import error_line, json_line, one_line
from qwartet.cli.units import format_bytes
from qwartet.hub.listing import named

if TYPE_CHECKING:
    from qwartet.hub.stored import StoredModel
    from qwartet.hub.verification import Verification


def verify(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Hub id or checkpoint directory.")],
    revision: Revision = None,
    as_json: AsJson = False,
) -> int:
    """Compare every byte of a model with its recorded hashes.

    The hashes were recorded at download. Without a record, it uses the hashes in the file names of the hub's cache;
    without those, it checks only the structure of the files, and says so. The exit code is 2 if something is wrong.
    """
    from qwartet.hub.stored import find_stored
    from qwartet.hub.verification import verify as verify_directory

    stored = find_stored(model, revision)[0]
    with byte_progress("checking", "checked") as on_bytes:
        found = verify_directory(stored.directory, stored.manifest, on_bytes)
    if as_json:
        print(json_line({"name": stored.name, "commit": stored.commit, **asdict(found)}))
    else:
        for line in _lines(stored, found):
            print(one_line(line))
    return 0 if found.is_sound else 2


def _lines(stored: StoredModel, found: Verification) -> Iterator[str]:
    for problem in found.problems:
        yield f"problem: {error_line(problem)}"
    commit = "" if stored.commit is None else f", commit {stored.commit}"
    files = f"{found.num_files} files, {format_bytes(found.num_bytes)}"
    if found.against == "structure":
        yield (
            f"{stored.name}: no hashes are recorded, so changed weights cannot be detected; checked configs, "
            f"vocabulary, tensor names and shapes: {len(found.problems) or 'no'} problems ({files})"
        )
        return
    recorded = f"hashes {'recorded at download' if found.against == 'manifest' else 'in the hub cache'}"
    yield from _limits(found)
    if found.is_sound:
        how = f"all match the {recorded}"
        if found.num_by_hash < found.num_files:
            rest = found.num_files - found.num_by_hash
            how = f"{found.num_by_hash} match the {recorded}, {rest} only the recorded size"
        yield f"{stored.name}{commit}: {files}, {how}"
        return
    repair = "" if stored.repository is None else f": qwartet pull {_pull_arguments(stored)}"
    wrong = f"{len(found.problems)} of {found.num_files} files do not match the {recorded}"
    yield f"{stored.name}{commit}: {wrong}; download them again{repair}"


def _limits(found: Verification) -> Iterator[str]:
    """What was not compared, or not with a hash of the hub."""
    if found.unlisted:
        yield f"note: the hub listed no hash of {named(found.unlisted)}; the one recorded was computed at download"
    if found.uncompared:
        yield f"note: not compared, since no record lists them: {named(found.uncompared)}"


def _pull_arguments(stored: StoredModel) -> str:
    revision = stored.revisions[0] if stored.revisions else stored.commit
    return f"{stored.repository}" if revision in ("main", "master") else f"{stored.repository} --revision {revision}"
