"""A JSON file of a checkpoint, read with a bound on its size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import cannot_read, has_file
from qwartet.errors import CheckpointError

MAX_JSON_BYTES = 64 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint; CheckpointError for anything else."""
    if not has_file(path):
        raise CheckpointError(path, "file is missing", hint="is this the directory of a checkpoint?")
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(path, f"is {size} bytes; a JSON file of a checkpoint has less than {MAX_JSON_BYTES}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot_read(path, error) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is not valid JSON ({error})", hint="download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(path, "does not hold a JSON object", hint="download it again")
    return value
