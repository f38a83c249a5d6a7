"""A record of every model that Qwartet downloaded: commit, sizes and SHA-256.

One JSON file for each commit of a model, in Qwartet's cache directory. It is written when a download begins, so that an
interrupted one is known, and again after each verified file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from qwartet.files import atomic_write, cache_directory
from qwartet.hub.repository import HubName, Repository

FORMAT = 1


@dataclass(frozen=True)
class ManifestFile:
    """A file of the model; `sha256` is that of the local bytes, None until they are verified."""

    name: str
    size: int  # bytes
    blob: str  # the hub's hash of the content: SHA-256, or the SHA-1 of a git blob; empty where it lists none
    sha256: str | None = None
    is_damaged: bool = False  # found by a later check


@dataclass(frozen=True)
class Manifest:
    """The record of one model at one commit; times are UTC, ISO 8601."""

    repository: Repository
    revision: str
    commit: str
    endpoint: str
    directory: Path
    started_at: str
    finished_at: str | None  # None while files are missing
    files: tuple[ManifestFile, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def path(self) -> Path:
        return manifest_directory() / f"{self.repository.key}--{self.commit}.json"

    def is_here(self, file: ManifestFile) -> bool:
        """Whether a file is in the directory with its recorded size; its bytes are not read."""
        try:
            return not file.is_damaged and (self.directory / file.name).stat().st_size == file.size
        except OSError:
            return False

    @property
    def is_complete(self) -> bool:
        return self.finished_at is not None and all(map(self.is_here, self.files))

    def with_file(self, name: str, sha256: str) -> Manifest:
        """The same, with one more verified file."""
        return replace(
            self,
            files=tuple(
                replace(file, sha256=sha256, is_damaged=False) if file.name == name else file for file in self.files
            ),
        )

    def with_damage(self, names: set[str]) -> Manifest:
        """The same, with these files marked as damaged and the others as sound."""
        return replace(self, files=tuple(replace(file, is_damaged=file.name in names) for file in self.files))


def manifest_directory() -> Path:
    """Where the records are kept."""
    return cache_directory() / "models"


def write_manifest(manifest: Manifest) -> None:
    """Writes a record, replacing an older one; OSError where that fails."""
    content = asdict(manifest) | {"format": FORMAT, "directory": str(manifest.directory)}
    manifest.path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(manifest.path) as path, path.open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_manifests() -> Iterator[Manifest]:
    """All records, newest first; invalid ones are skipped."""
    try:
        found = sorted(manifest_directory().glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return
    for path in found:
        try:
            manifest = _parse(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if manifest.path.name == path.name:
            yield manifest


def manifest_of(directory: Path) -> Manifest | None:
    """The record of a directory; None for one that Qwartet did not download."""
    wanted = directory.resolve()
    return next((manifest for manifest in read_manifests() if manifest.directory.resolve() == wanted), None)


def _parse(raw: Any) -> Manifest:
    """A record from JSON; ValueError, KeyError or TypeError for anything else."""
    if raw["format"] != FORMAT or raw["repository"]["hub"] not in get_args(HubName):
        raise ValueError("another format")
    files = tuple(ManifestFile(**file) for file in raw["files"])
    if not all(os.path.basename(file.name) == file.name and isinstance(file.size, int) for file in files):
        raise ValueError("a name outside the directory, or an invalid size")
    texts = {key: raw[key] for key in ("revision", "commit", "endpoint", "started_at")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("a value of another type")
    return Manifest(
        repository=Repository(**raw["repository"]),
        directory=Path(raw["directory"]),
        finished_at=raw["finished_at"],
        files=files,
        **texts,
    )
