"""Where the local copy of a hub's model is: one directory for each commit, laid out as the hub's own library does."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwartet.hub.repository import Repository


@dataclass(frozen=True)
class Place:
    """Where files are stored: in `directory`, or named by their hashes in `blobs` with links from `directory`.

    A file without a hash is always in `directory`: in `blobs` other commits would find it under the same name.
    """

    directory: Path
    lock: Path  # held by the process that downloads files of the repository
    blobs: Path | None = None

    def content(self, name: str, blob: str) -> Path:
        """Where the bytes of a file appear once they are verified."""
        return self.directory / name if self.blobs is None or not blob else self.blobs / blob

    def existing(self, name: str, blob: str) -> Path | None:
        """Where the bytes of a file are already; None where they are not."""
        return next((path for path in (self.directory / name, self.content(name, blob)) if path.is_file()), None)

    def publish(self, name: str, blob: str) -> None:
        """Gives a file whose content is in place its name."""
        target = self.directory / name
        if self.blobs is None or not blob:
            return
        link = target.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
        try:
            link.symlink_to(os.path.relpath(self.blobs / blob, self.directory))
        except OSError:  # a disk without links gets the file itself, as the hub's library does it
            os.replace(self.blobs / blob, target)
            return
        os.replace(link, target)


def unfinished(content: Path) -> Path:
    """Where the bytes of a file are gathered until it is complete."""
    return content.with_name(f"{content.name}.incomplete")


@dataclass(frozen=True)
class Snapshot:
    """The local copy of a model at a commit, complete or not; `commit` is None where the directory does not say it."""

    repository: Repository
    directory: Path
    commit: str | None
    revisions: tuple[str, ...]  # branches and tags that point to this commit


@dataclass(frozen=True)
class Removal:
    """What would be deleted: how many bytes that frees, and a function that does it."""

    num_bytes: int
    execute: Callable[[], None]


def size_of(paths: list[Path]) -> int:
    """Bytes of the files among `paths`."""
    return sum(path.stat().st_size for path in paths if path.is_file())
