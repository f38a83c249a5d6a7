"""The name of a weight cache: a hash of its inputs.

Hashing a checkpoint reads all of it. So the hash of a directory is recorded with the size, inode and times of its
files, and reused until those change. The names of its caches are recorded too, so that they can be removed with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qwartet.checkpoint.cache_directory import check_is_ours
from qwartet.checkpoint.held_tensors import LoadSettings
from qwartet.checkpoint.shards import Checkpoint
from qwartet.files import atomic_write, sha256_of

_KEY = re.compile(r"[0-9a-f]{32}")


def cache_key(directory: Path, checkpoint: Checkpoint, settings: LoadSettings, header: bytes) -> str:
    """Hash of the files' contents, the GPTQ settings, and the tensors and layout of the cache.

    `directory` holds the caches and the record of the contents' hash.
    """
    files = [file.resolve() for file in checkpoint.files]
    known, before = _record_path(directory, checkpoint.directory), [_identity(file) for file in files]
    record = _record(known)
    contents, caches = record.get("sha256"), record.get("caches", [])
    if record.get("files") != before or not isinstance(contents, str):
        contents = _contents(files)
    parts = (contents, repr(settings.gptq), str(settings.backend.layout))
    key = hashlib.sha256("\0".join(parts).encode() + header).hexdigest()[:32]
    changed = {"files": before, "sha256": contents, "caches": [*caches, *({key} - set(caches))]}
    # A checkpoint that changed meanwhile is not recorded.
    if changed != record and [_identity(file) for file in files] == before:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(known) as unfinished:
            unfinished.touch(mode=0o600)
            unfinished.write_text(json.dumps(changed), encoding="utf-8")
    return key


def caches_of(directory: Path, checkpoint: Path) -> list[Path]:
    """The files in `directory` that were made for a checkpoint's directory, including its record."""
    known = _record_path(directory, checkpoint)
    keys = (key for key in _record(known).get("caches", []) if _KEY.fullmatch(key))
    return [path for path in (*(directory / f"{key}.safetensors" for key in keys), known) if path.is_file()]


def _record_path(directory: Path, checkpoint: Path) -> Path:
    return directory / f"{hashlib.sha256(os.fsencode(checkpoint.resolve())).hexdigest()[:32]}.json"


def _record(known: Path) -> dict[str, Any]:
    """The record of a checkpoint; empty if it cannot be read or another user could have written it."""
    try:
        check_is_ours(known)
        record: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))
        if all(isinstance(key, str) for key in record.get("caches", [])):
            return record
    except (OSError, ValueError, AttributeError, TypeError):  # SettingError is a ValueError
        pass
    return {}


def _contents(files: list[Path]) -> str:
    """SHA-256 over the SHA-256 of every file with tensors."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return hashlib.sha256("".join(pool.map(sha256_of, files)).encode()).hexdigest()


def _identity(file: Path) -> list[int | str]:
    status = file.stat()
    return [file.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
