"""The hashes that hubs name files by: SHA-256, and for small files on Hugging Face the SHA-1 of a git blob."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

PIECE_BYTES = 2**22


class FileHashes:
    """The hashes of a file of `size` bytes, taken while its bytes pass."""

    def __init__(self, size: int, *, with_git: bool) -> None:
        self.num_bytes = 0
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False) if with_git else None

    def update(self, piece: bytes) -> None:
        self.num_bytes += len(piece)
        self._sha256.update(piece)
        if self._git is not None:
            self._git.update(piece)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def match(self, sha256: str | None, git_sha1: str | None) -> bool:
        """Whether these are the hashes of what was expected; True where nothing was."""
        if sha256 is not None:
            return self.sha256 == sha256
        return git_sha1 is None or (self._git is not None and self._git.hexdigest() == git_sha1)


def hash_file(path: Path, *, with_git: bool, on_bytes: Callable[[int], None]) -> FileHashes:
    """Reads a file once; `on_bytes` hears how many bytes more are read."""
    with path.open("rb") as file:
        hashes = FileHashes(os.fstat(file.fileno()).st_size, with_git=with_git)
        while piece := file.read(PIECE_BYTES):
            hashes.update(piece)
            on_bytes(len(piece))
    return hashes
