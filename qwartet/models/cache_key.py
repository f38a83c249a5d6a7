"""The name of a weight cache: a hash of what it is made from.

Hashing a checkpoint reads all of it. So the hash of a directory is remembered together with the size, inode and times
of its files, and taken as long as those are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qwartet.kernels.cpu_weights import LAYOUT_VERSION
from qwartet.models.checkpoint import Checkpoint
from qwartet.models.held_tensors import LoadSettings


def cache_key(directory: Path, checkpoint: Checkpoint, settings: LoadSettings, header: bytes) -> str:
    """Hash of the contents of the files, of the GPTQ settings, and of what the cache holds and how.

    `directory` is where caches lie and the hash of the contents is remembered.
    """
    parts = (_contents(directory, checkpoint), repr(settings.gptq), f"layout {LAYOUT_VERSION}")
    return hashlib.sha256("\0".join(parts).encode() + header).hexdigest()[:32]


def _contents(directory: Path, checkpoint: Checkpoint) -> str:
    """SHA-256 over the SHA-256 of every file with tensors."""
    files = [file.resolve() for file in checkpoint.files]
    known = directory / f"{hashlib.sha256(os.fsencode(checkpoint.directory.resolve())).hexdigest()[:32]}.json"
    before = [_identity(file) for file in files]
    try:
        record = json.loads(known.read_text(encoding="utf-8"))
        if record["files"] == before and isinstance(record["sha256"], str):
            return record["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        digest = hashlib.sha256("".join(pool.map(_sha256, files)).encode()).hexdigest()
    if [_identity(file) for file in files] == before:  # else it changed under us, and nothing is remembered
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = known.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"files": before, "sha256": digest}), encoding="utf-8")
        os.replace(temporary, known)
    return digest


def _identity(file: Path) -> list[int | str]:
    status = file.stat()
    return [file.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
