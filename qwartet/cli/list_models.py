"""`qwartet list`: the models on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.language.columns import padded, width_of
from qwartet.cli.options import AsJson
from qwartet.cli.terminal import json_line, untranslated_line
from qwartet.cli.units import format_bytes

if TYPE_CHECKING:
    from qwartet.hub.stored import StoredModel


def list_models(
    as_json: AsJson = False,
) -> None:
    """List the models on this machine.

    It lists the bundled model and the models in the hub caches, including those that other tools downloaded. It
    contacts no hub and computes no hashes.
    """
    from qwartet.hub.stored import stored_models

    models = list(stored_models())
    if as_json:
        print(json_line({"models": [stored_facts(model) for model in models]}))
        return
    headings = tuple(map(label, ("NAME", "MODEL", "SIZE", "CHANGED", "COMMIT", "STATE")))
    for line in _table([headings, *map(_row, models)]):
        print(untranslated_line(line))


def stored_facts(model: StoredModel) -> dict[str, Any]:
    """The facts about a stored model, as plain values."""
    return {
        "name": model.name,
        "hub": None if model.repository is None else model.repository.hub,
        "size": model.size,
        "precision": model.precision,
        "is_chat": model.is_chat,
        "state": model.state,
        "bytes": model.num_bytes,
        "expected_bytes": model.expected_bytes,
        "commit": model.commit,
        "revisions": list(model.revisions),
        "changed": datetime.fromtimestamp(model.changed_at).astimezone().isoformat(timespec="seconds"),
        "pulled": None if model.manifest is None else model.manifest.finished_at,
        "directory": str(model.directory),
    }


def state_words(model: StoredModel) -> str:
    """How much of it is downloaded: "complete", "partial: 3.1 GiB of 15.1 GiB"."""
    if model.state == "partial" and model.expected_bytes is not None:
        return f"partial: {format_bytes(model.num_bytes)} of {format_bytes(model.expected_bytes)}"
    return model.state


def _row(model: StoredModel) -> tuple[str, ...]:
    changed = datetime.fromtimestamp(model.changed_at).strftime("%Y-%m-%d %H:%M")
    revisions = f" ({', '.join(model.revisions)})" if model.revisions else ""
    commit = f"{(model.commit or '-')[:12]}{revisions}"
    state = translate(label(state_words(model)))
    return label(model.name), model.kind, format_bytes(model.num_bytes), changed, commit, state


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
