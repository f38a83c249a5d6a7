"""Tables of a dataset (parquet files), read row by row with the `datasets` library: plain text and numbers alone.

The files are local by now. Only the library's own parquet reader sees them, so nothing that a dataset brings can run,
and columns of another type, such as pictures with an address to be loaded, are refused before a row is read.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwartet.errors import DownloadError

Kind = Literal["text", "optional text", "texts", "number"]

CHECK_MIRROR = "check HF_ENDPOINT, or put the published files into --data by hand"
MAX_ROWS = 100_000
MAX_CHARS = 2**28  # of a table; the largest, MMLU's, has 7 million
_BATCH_ROWS = 64
_TEXTS = ("string", "large_string")
_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class HubFiles:
    """Files of a dataset, verified, by their names on the hub."""

    dataset: str
    paths: Mapping[str, Path]
    scratch: Path  # a directory for what the library writes

    def rows(self, prefix: str, columns: Mapping[str, Kind]) -> Iterator[dict[str, Any]]:
        """The rows of the tables whose names begin with `prefix`; DownloadError where they are not as expected."""
        from datasets import IterableDataset

        named = [path for name, path in sorted(self.paths.items()) if name.startswith(prefix)]
        if not named:
            raise DownloadError(f"{self.dataset}: no {prefix}*.parquet at this revision; {CHECK_MIRROR}")
        # Not load_dataset, which reports each call to a host of its own. Row by row, so that a table that would unpack
        # without end is stopped.
        table = IterableDataset.from_parquet(
            [glob.escape(str(path)) for path in named], batch_size=_BATCH_ROWS, cache_dir=str(self.scratch)
        )
        self._check_columns(prefix, dict(table.features or {}), columns)
        num_chars = 0
        for number, row in enumerate(table.select_columns(list(columns)), start=1):
            cells = {name: self._cell(name, kind, row[name]) for name, kind in columns.items()}
            num_chars += sum(len(str(cell)) for cell in cells.values())
            if number > MAX_ROWS or num_chars > MAX_CHARS:
                raise DownloadError(f"{self.dataset}: {prefix} is larger than any published set; {CHECK_MIRROR}")
            yield cells

    def _check_columns(self, prefix: str, features: Mapping[str, Any], columns: Mapping[str, Kind]) -> None:
        for name, kind in columns.items():
            if name not in features:
                there = ", ".join(list(features)[:12])
                raise DownloadError(f"{self.dataset}: {prefix} has no column {name!r}, but {there}; {CHECK_MIRROR}")
            feature = features[name]
            inner = getattr(feature, "feature", None) if kind == "texts" else feature
            if getattr(inner, "dtype", None) not in (_NUMBERS if kind == "number" else _TEXTS):
                wrong = f"the column {name!r} of {prefix} is not of the expected type"
                raise DownloadError(f"{self.dataset}: {wrong}; {CHECK_MIRROR}")

    def _cell(self, name: str, kind: Kind, value: Any) -> Any:
        if kind == "optional text":
            return self._cell(name, "text", "" if value is None else value)
        if kind == "texts" and isinstance(value, list):
            return [self._cell(name, "text", one) for one in value]
        if not isinstance(value, int if kind == "number" else str):
            raise DownloadError(f"{self.dataset}: a row has no {name}; {CHECK_MIRROR}")
        return value
