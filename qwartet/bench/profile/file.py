"""profile.json: the rows of a profile, written after each of them; a later run goes on from it.

    {"profile": {"version": ..., "processor": ..., "threads": ..., ...}, "rows": [...]}

All rows of a file belong to one machine, version and set of options. Rows that a later run does not ask for stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qwartet import __version__
from qwartet.bench.machine import processor
from qwartet.bench.profile.row import FINAL, Row
from qwartet.bench.profile.settings import ProfileSettings
from qwartet.errors import SettingError
from qwartet.files import atomic_write

NAME = "profile.json"
_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")  # in the order of the card


def facts_of(settings: ProfileSettings) -> dict[str, Any]:
    """What all rows of a run have in common, and two runs must share to be rows of one table."""
    machine = processor()
    return {
        "version": __version__,
        "processor": machine["name"],
        "instruction_sets": machine["instruction_sets"],
        "cores": machine["usable_cores"],
        "threads": settings.threads,
        "activations": settings.activations,
        "head": settings.head,
    }


class ProfileFile:
    """The rows of a profile by their keys, kept on disk where a directory is given."""

    def __init__(self, facts: dict[str, Any], directory: Path | None = None, *, overwrite: bool = False) -> None:
        """Continues an earlier run; SettingError, naming what differs, where its rows are not of the same kind."""
        self.facts = facts
        self._path = None if directory is None else directory / NAME
        self._rows: dict[tuple[object, ...], Row] = {}
        if self._path is not None and self._path.exists() and not overwrite:
            earlier, rows = read_profile(self._path)
            for name, value in facts.items():
                if earlier.get(name) != value:
                    difference = f"{name} was {earlier.get(name)!r:.60} and is {value!r:.60}"
                    reason = f"{self._path} belongs to a different run ({difference})"
                    raise SettingError(f"{reason}; choose another --out, or pass --overwrite")
            self._rows = {row.key: row for row in rows}

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order of the card: precision, context, setting; then the kind of cache."""
        return in_order(self._rows.values())

    def finished(self, row: Row) -> Row | None:
        """The same row, where an earlier run has measured it."""
        earlier = self._rows.get(row.key)
        return earlier if earlier is not None and earlier.status in FINAL else None

    def add(self, row: Row) -> None:
        """Takes a row, in place of the same one of an earlier run, and writes the file."""
        self._rows[row.key] = row
        self.write()

    def write(self) -> None:
        """Writes the file; OSError where it cannot be written."""
        if self._path is not None:
            with atomic_write(self._path) as path:
                path.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return {"profile": self.facts, "rows": [row.to_dict() for row in self.rows]}


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order of the card."""
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[Any, ...]:
    known = row.precision in _PRECISIONS
    precision = _PRECISIONS.index(row.precision) if known else len(_PRECISIONS)
    return (precision, row.model, row.context, row.generate, row.attention, -_bits(row.kv_cache_dtype))


def _bits(kv_cache_dtype: str) -> int:
    return int("".join(filter(str.isdigit, kv_cache_dtype)) or 0)


def read_profile(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """What the rows of a file have in common, and the rows; SettingError for another kind of file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["profile"]), [Row.from_dict(row) for row in content["rows"]]
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SettingError(
            f"{path} is not a profile of this version; choose another --out, or pass --overwrite"
        ) from None
