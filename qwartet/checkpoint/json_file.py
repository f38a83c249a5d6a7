"""A checkpoint's JSON file, read with a size limit; conflicting values of one key are rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import cannot_read, has_file
from qwartet.errors import CheckpointError
from qwartet.files import decode_text

MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_DEPTH = 32  # of objects and lists within each other; published files have 6
LFS_POINTER = b"version https://git-lfs"


class _KeyTwiceError(ValueError):
    """One key with two values."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique and repr(unique[key]) != repr(value):  # the same value twice changes nothing
            raise _KeyTwiceError(f"key {key!r:.80} appears twice, with {unique[key]!r:.80} and {value!r:.80}")
        unique[key] = value
    return unique


def read_text(path: Path) -> str:
    """The text of a file of a checkpoint, without its byte order mark; CheckpointError where it is not text."""
    content = _content(path)
    try:
        return decode_text(content)
    except ValueError as error:
        raise CheckpointError(path, f"is not text ({error})", hint=_hint(content)) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint; CheckpointError for anything else, and for one nested too deep."""
    content = _content(path)
    try:
        value = json.loads(decode_text(content), object_pairs_hook=_unique_keys)
    except _KeyTwiceError as error:
        raise CheckpointError(path, str(error), hint="remove the wrong one") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is not valid JSON ({error})", hint=_hint(content)) from None
    if not isinstance(value, dict):
        raise CheckpointError(path, "does not hold a JSON object", hint="download it again")
    if is_deep(value):
        raise CheckpointError(path, f"is nested more than {MAX_JSON_DEPTH} deep", hint="download it again")
    return value


def is_deep(value: Any) -> bool:
    """Whether lists and objects are nested deeper than any file needs, so that showing one could overflow the stack."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [part for one in inner for part in one if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _content(path: Path) -> bytes:
    if not has_file(path):
        raise CheckpointError(path, "file is missing", hint="is this a checkpoint directory?")
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(path, f"is {size} bytes; a JSON file of a checkpoint has less than {MAX_JSON_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from None


def _hint(content: bytes) -> str:
    if content.startswith(LFS_POINTER):
        return "it is a Git LFS pointer, not the file itself: run `git lfs pull`"
    if content.lstrip()[:1] == b"<":
        return "it looks like a web page: download the file again"
    return "download it again"
