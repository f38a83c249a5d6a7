"""Are the files of a model unchanged? Every byte is read and hashed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwartet.hub.fetch import hash_file
from qwartet.hub.manifest import Manifest, ManifestFile, write_manifest
from qwartet.hub.stored import state_of

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Verification:
    """The result; `against` says what the files were compared with: "structure" when nothing was recorded."""

    directory: str
    against: Literal["manifest", "hub cache", "structure"]
    num_files: int  # that were checked
    num_bytes: int
    num_by_hash: int  # of them, by hash; of the others only the size is known
    unlisted: list[str]  # files for which the hub listed no hash: their recorded hash is that of the bytes received
    uncompared: list[str]  # other files of the directory, without any record
    problems: list[str]  # each begins with the name of a file, where it concerns one

    @property
    def is_sound(self) -> bool:
        return not self.problems


def verify(directory: Path, manifest: Manifest | None, on_bytes: Callable[[int, int], None]) -> Verification:
    """Compares a directory with its record; else with the hashes in the names of its hub cache; else checks its
    structure, which does not reveal changed weights. `on_bytes` is called with the size of each piece and the total.

    Damaged files are marked in the record: the next pull downloads them again, and only them.
    """
    files = _hub_cache_files(directory) if manifest is None else manifest.files
    if not files:
        return _by_structure(directory)
    num_bytes = sum(file.size for file in files)
    problems = {file.name: problem for file in files if (problem := _problem(directory, file, num_bytes, on_bytes))}
    if manifest is None and state_of(directory, None) == "partial":
        problems["config and weights"] = "are incomplete"
    if manifest is not None:
        marked = manifest.with_damage(set(problems))
        if marked != manifest:
            _try_to_write(marked)
    known = {file.name for file in files}
    return Verification(
        directory=str(directory),
        against="hub cache" if manifest is None else "manifest",
        num_files=len(files),
        num_bytes=num_bytes,
        num_by_hash=sum(_has_hash(file) for file in files),
        unlisted=[file.name for file in files if not _HASH.fullmatch(file.blob)],
        uncompared=sorted(path.name for path in directory.iterdir() if path.is_file() and path.name not in known),
        problems=[f"{name}: {problem}" for name, problem in problems.items()],
    )


def _has_hash(file: ManifestFile) -> bool:
    """Whether more than a file's size is known."""
    return file.sha256 is not None or _HASH.fullmatch(file.blob) is not None


def _problem(directory: Path, file: ManifestFile, of: int, on_bytes: Callable[[int, int], None]) -> str | None:
    """The problem of a file; None when there is none."""
    path = directory / file.name
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != file.size:
        return f"has {size} bytes, not {file.size}"
    if not _has_hash(file):
        return None
    is_git = file.sha256 is None and len(file.blob) == 40
    hashes = hash_file(path, with_git=is_git, on_bytes=lambda count: on_bytes(count, of))
    sha256 = file.sha256 or (None if is_git else file.blob)
    if not hashes.match(sha256, file.blob if is_git else None):
        return (
            f"does not have its recorded hash (SHA-256 is {hashes.sha256}, not {sha256})"
            if sha256
            else ("does not have its recorded hash")
        )
    return None


def _hub_cache_files(directory: Path) -> tuple[ManifestFile, ...]:
    """The files of a snapshot in a Hugging Face cache, which are links to contents named by their hash."""
    if directory.resolve().parent.name != "snapshots":
        return ()
    found = []
    for path in sorted(directory.iterdir()):
        blob = Path(os.readlink(path)).name if path.is_symlink() else ""
        if _HASH.fullmatch(blob):
            found.append(ManifestFile(path.name, path.stat().st_size if path.exists() else 0, blob))
    return tuple(found)


def _try_to_write(manifest: Manifest) -> None:
    with suppress(OSError):  # the result stands even where the record cannot be written
        write_manifest(manifest)


def _by_structure(directory: Path) -> Verification:
    from qwartet.models.inspection import inspect_checkpoint

    found = inspect_checkpoint(directory)
    return Verification(
        directory=str(directory),
        against="structure",
        num_files=len(found.files),
        num_bytes=sum(file["bytes"] for file in found.files),
        num_by_hash=0,
        unlisted=[],
        uncompared=[file["name"] for file in found.files],
        problems=found.problems,
    )
