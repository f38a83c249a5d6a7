"""Input history kept between runs, in a bounded file that only its owner can read; no trouble with it ends a chat."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import FileHistory

MAX_HISTORY_BYTES = 2**20


class LineHistory(FileHistory):
    """A file in prompt_toolkit's format; errors of reading and writing it are ignored."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._is_usable = False
        with suppress(OSError):
            self._is_usable = _is_ready(path)

    def load_history_strings(self) -> Iterable[str]:
        """The newest first."""
        with suppress(OSError):
            return list(super().load_history_strings()) if self._is_usable else []
        return []

    def store_string(self, string: str) -> None:
        """Appends one message."""
        with suppress(OSError):
            if self._is_usable:
                super().store_string(string)


def _is_ready(path: Path) -> bool:
    """Whether the file exists, is regular, private and not too long; creates or fixes it where possible."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # O_NONBLOCK: a pipe under this name must not wait for its other end.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    with open(descriptor, "rb+") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        os.fchmod(descriptor, 0o600)
        if status.st_size > MAX_HISTORY_BYTES:
            file.seek(status.st_size - MAX_HISTORY_BYTES // 2)
            newest = file.read().partition(b"\n\n")[2]
            file.seek(0)
            file.write(newest)
            file.truncate()
    return True
