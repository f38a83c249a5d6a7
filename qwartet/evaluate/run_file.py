"""The file of a run: a line that says what was run, then a line for each question; written as answers come.

    {"run": {"task": "mmlu", "settings": {...}, "answerer": {...}}}
    {"id": "anatomy/0", "group": "anatomy", "prompt": ..., "answer": ..., "extracted": "B", "score": 1.0, ...}

A run that was stopped goes on from its file. A complete file has its lines in the order of the questions, so the same
model and settings give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import chain
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from qwartet.errors import SettingError
from qwartet.evaluate.question import Record
from qwartet.files import atomic_write

_FIELDS = {field.name for field in fields(Record)}
_ENCODER = json.JSONEncoder(ensure_ascii=False)


class RunFile:
    """One task's file, open for more lines."""

    def __init__(self, path: Path, run: dict[str, Any], records: Sequence[Record]) -> None:
        self.path = path
        self.records: dict[str, Record] = {}  # by question id; of those that were answered
        self._head = _line({"run": run})
        self._places: dict[str, tuple[int, int]] = {}  # where a record's line begins in the file, and its bytes
        self._end = len(self._head)
        lines = [self._head, *map(self._placed, records)]
        _replace(path, lines, is_synced=bool(records))  # without a torn last line
        self._file = path.open("ab")

    @classmethod
    def open(cls, path: Path, run: dict[str, Any], *, overwrite: bool = False) -> RunFile:
        """Begins a run's file, or takes up the one of a run that was stopped; failed questions are asked again.

        SettingError, naming what differs, where the file is of another run.
        """
        records: dict[str, Record] = {}
        if path.exists() and not overwrite:
            earlier, found = read_run(path)
            if difference := _difference(earlier, run):
                raise SettingError(
                    f"{path} belongs to a different run ({difference}); choose another --out, or pass --overwrite"
                )
            records = {record.id: record for record in found if record.error is None}
        return cls(path, run, list(records.values()))

    def add(self, record: Record) -> None:
        """Writes a line; it is on its way to the disk when this returns, whatever happens to the process."""
        self._file.write(self._placed(record))
        self._file.flush()

    def _placed(self, record: Record) -> bytes:
        line = _line(vars(record))
        self.records[record.id] = record
        self._places[record.id] = self._end, len(line)
        self._end += len(line)
        return line

    def complete(self, ids: Sequence[str]) -> list[Record]:
        """Puts the lines in the order of the questions and returns them; those that were not asked this time go."""
        self._file.close()
        with self.path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as lines:
            places = [self._places[one] for one in ids]
            _replace(self.path, chain([self._head], (lines[start : start + length] for start, length in places)))
        return [self.records[one] for one in ids]

    def close(self) -> None:
        self._file.close()


def read_run(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """What was run, and its records; a torn last line is left out. SettingError for another kind of file."""
    records: list[Record] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror}); check the path") from None
    whole = lines[:-1]  # what follows the last line feed is empty, or torn
    try:
        run = json.loads(whole[0])["run"] if whole else None
    except (ValueError, TypeError, KeyError):
        run = None
    if not isinstance(run, dict):
        raise SettingError(f"{path} is not a run of qwartet evaluate; choose another file")
    for number, line in enumerate(whole[1:], start=2):
        try:
            values = json.loads(line)
            records.append(Record(**{name: values[name] for name in _FIELDS}))
        except (ValueError, TypeError, KeyError):
            raise SettingError(f"{path}, line {number}: not a record; remove the line and run again") from None
    return run, records


def _difference(earlier: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """The first setting in which two runs differ, with both values; empty where they are alike."""
    for key in dict.fromkeys((*earlier, *now)):
        one, other = earlier.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            if inner := _difference(one, other, f"{prefix}{key}."):
                return inner
        elif one != other:
            return f"{prefix}{key} was {one!r:.60} and is {other!r:.60}"
    return ""


def _replace(path: Path, lines: Iterable[bytes], *, is_synced: bool = True) -> None:
    """Replaces a file as a whole; `is_synced`: not even a power cut leaves less than the old lines or the new ones."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.writelines(lines)
        if is_synced:
            file.flush()
            os.fsync(file.fileno())


def _line(value: dict[str, Any]) -> bytes:
    return _ENCODER.encode(value).encode(errors="backslashreplace") + b"\n"
