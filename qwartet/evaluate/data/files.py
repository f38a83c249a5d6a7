"""Data files of benchmarks: CSV and JSON lines, checked row by row, each error with file and line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qwartet.errors import DataError
from qwartet.files import kind_of, sha256_of

MAX_FILE_BYTES = 2**30  # unpacked; the largest published file, L-Eval's, has less than 100 MB
MAX_CELL_CHARS = 2**24


def csv_rows(
    path: Path, columns: Sequence[str], *, has_header: bool, optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the columns of each row.

    Without a header a row is the columns in their order. DataError for missing columns and rows of another width.
    """
    csv.field_size_limit(MAX_CELL_CHARS)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    names: Sequence[str] = columns
    try:
        if has_header:
            names = [name.strip() for name in next(reader, [])]
            if missing := [column for column in columns if column not in names]:
                reason = f"the column {missing[0]!r} is missing; there are {', '.join(names[:12]) or 'none'}"
                raise DataError(path, reason, line=1, hint="use the published file")
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                reason = f"{len(row)} columns instead of {len(names)} ({', '.join(names[:12])})"
                raise DataError(path, reason, line=reader.line_num, hint="fix the row")
            cells = dict(zip(names, row, strict=True))
            yield reader.line_num, {name: cells[name] for name in (*columns, *optional) if name in cells}
    except csv.Error as error:
        raise DataError(path, f"not valid CSV ({error})", line=reader.line_num, hint="fix the row") from None


def json_rows(path: Path, fields: dict[str, type | tuple[type, ...]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line number and the object of each line of a JSON lines file, gzipped or not.

    DataError for a line that is not an object, and for a field of `fields` that is missing or of another type.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(path, f"not valid JSON ({error})", line=number, hint="fix the line") from None
        if not isinstance(value, dict):
            raise DataError(path, "not a JSON object", line=number, hint="fix the line")
        for name, kind in fields.items():
            if name not in value:
                raise DataError(path, f"the field {name!r} is missing", line=number, hint="use the published file")
            if not isinstance(value[name], kind):
                raise DataError(path, f"the field {name!r} has the wrong type", line=number, hint="fix the line")
        yield number, value


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, a byte order mark left out, unpacked where its name ends in .gz."""
    if (kind := kind_of(path)) != "a file":
        raise DataError(path, "no such file" if kind is None else f"{kind}, not a regular file", hint="check the path")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(path, f"cannot be read ({reason})", hint="check the path, or download it again") from None
    if len(content) > MAX_FILE_BYTES:
        raise DataError(path, "larger than 1 GiB, unlike any published file", hint="check the path")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(path, "not valid UTF-8", line=line, hint="save it as UTF-8") from None


def find_file(directory: Path, *names: str) -> Path:
    """The first of these names that exists in a directory or one level below; DataError, naming all, without one."""
    for name in names:
        for place in _places(directory):
            if (place / name).is_file():
                return place / name
    raise DataError(
        directory,
        f"no {' or '.join(names)} here",
        hint="run qwartet evaluate fetch, or see docs/evaluate.md for the data files",
    )


def find_folder(directory: Path, name: str, files: Sequence[str]) -> Path:
    """The folder of a split, in a directory or one level below; DataError where it or one of its files is missing."""
    for place in _places(directory):
        folder = place / name
        if folder.is_dir():
            if missing := [file for file in files if not (folder / file).is_file()]:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise DataError(folder, f"{missing[0]}{more} missing", hint="unpack the published archive again")
            return folder
    raise DataError(
        directory,
        f"no folder {name}/ here",
        hint="run qwartet evaluate fetch, put the published archive here, or pass --data",
    )


def sha256_of_all(paths: Iterable[Path]) -> str:
    """One hash of several files, in their order, names included."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _places(directory: Path) -> list[Path]:
    """Where the files of a benchmark may be: in the directory, or in one of its own."""
    return [directory, *sorted(path for path in directory.glob("*") if path.is_dir())]
