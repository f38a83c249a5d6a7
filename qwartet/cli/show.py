"""`qwartet show`: what a model on this machine is, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwartet.cli.language.catalogue import label
from qwartet.cli.language.columns import padded
from qwartet.cli.list_models import state_words, stored_facts
from qwartet.cli.model_lines import files_line, gptq_line, kind_line, model_line, positions_line
from qwartet.cli.options import AsJson, Revision
from qwartet.cli.terminal import json_line, one_line, untranslated_line
from qwartet.cli.units import format_bytes
from qwartet.errors import CheckpointError

if TYPE_CHECKING:
    from qwartet.hub.stored import StoredModel


def show(
    model: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Hub id or checkpoint directory.", show_default="the bundled model"),
    ] = None,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's source, commit, licence, shape and sampling.

    This is what the model's files state; `qwartet inspect` checks them for faults, and `qwartet verify` compares every
    byte with what was downloaded.
    """
    from qwartet.hub.stored import find_stored

    stored, *others = find_stored(model, revision)
    facts = _facts(stored)
    if as_json:
        print(json_line({**stored_facts(stored), **facts}))
        return
    print(untranslated_line(label(stored.name)))
    for name, text in _lines(stored, facts):
        print(f"  {padded(label(name), 11)}{one_line(text)}")
    for other in others:
        print(
            one_line(f"also on this machine: commit {other.commit or '-'} ({state_words(other)}); --revision shows it")
        )


def _facts(stored: StoredModel) -> dict[str, Any]:
    """What the files of a directory state, as plain values; None for an unreadable one, with the reason in problems."""
    from qwartet.models.families import load_config
    from qwartet.models.generation_config import load_generation_defaults
    from qwartet.models.inspection import gptq_facts, model_facts, sampling_facts
    from qwartet.models.load import load_gptq_config

    directory = stored.directory
    if stored.manifest is None and not (directory / "config.json").is_file():
        load_config(directory)  # raises: this is not a checkpoint
    problems: list[str] = []
    config, defaults, gptq = (
        _attempt(read, directory, problems) for read in (load_config, load_generation_defaults, load_gptq_config)
    )
    hashes = {} if stored.manifest is None else {file.name: file.sha256 for file in stored.manifest.files}
    files = [path for path in sorted(directory.iterdir()) if path.is_file()]
    return {
        "endpoint": None if stored.manifest is None else stored.manifest.endpoint,
        "model": None if config is None else model_facts(config),
        "sampling": None if defaults is None else sampling_facts(defaults),
        "quantization": None if gptq is None else gptq_facts(gptq),
        "problems": problems,
        "license": next((path.name for path in files if path.name.startswith("LICENSE")), None),
        "files": [{"name": path.name, "bytes": path.stat().st_size, "sha256": hashes.get(path.name)} for path in files],
    }


def _attempt(read: Callable[[Path], Any], directory: Path, problems: list[str]) -> Any:
    try:
        return read(directory)
    except CheckpointError as error:
        problems += [str(error)] * (str(error) not in problems)
        return None


def _lines(stored: StoredModel, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from qwartet.hub.stored import BUNDLED

    manifest = stored.manifest
    if stored.repository is not None:
        at = f", {', '.join(stored.revisions)}" if stored.revisions else ""
        yield "source", f"{facts['endpoint'] or stored.repository.hub}{at}, commit {stored.commit or 'unknown'}"
    yield "directory", f"{stored.directory} ({state_words(stored)}, {format_bytes(stored.num_bytes)})"
    if manifest is not None and manifest.finished_at is not None:
        yield "recorded", f"SHA-256 of {len(manifest.files)} files at {manifest.finished_at}; check: qwartet verify"
    elif stored.name != BUNDLED:
        yield "recorded", "no hashes, since qwartet pull did not download it, or not completely"
    for name, key, describe in (
        ("model", "model", model_line),
        ("positions", "model", positions_line),
        ("quantised", "quantization", gptq_line),
        ("kind", "sampling", kind_line),
    ):
        if facts[key] is not None:
            yield name, describe(facts[key])
    yield from (("problem", text) for text in facts["problems"])
    other = "that of Qwartet" if stored.name == BUNDLED else "no licence file; see the model's page"
    yield "licence", facts["license"] or other
    yield "files", files_line(facts["files"], most=100)
