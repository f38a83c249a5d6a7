"""What a checkpoint's directory contains, found without opening anything: opening a pipe would block."""

from __future__ import annotations

from pathlib import Path

from qwartet.errors import CheckpointError
from qwartet.files import kind_of


def cannot_read(path: Path, error: OSError) -> CheckpointError:
    """The error for a path that the system does not let us read."""
    hint = "check its permissions and those of its parent directories"
    return CheckpointError(path, f"cannot be read ({error.strerror or error})", hint=hint)


def has_file(path: Path) -> bool:
    """Whether a file of this name exists; CheckpointError for a pipe, a broken link, or anything else but a file.

    A link to a file counts as the file: download tools create links into their caches.
    """
    try:
        kind = kind_of(path)
    except OSError as error:
        raise cannot_read(path, error) from None
    if kind is None or kind == "a file":
        return kind is not None
    if kind == "a link that leads nowhere":
        raise CheckpointError(path, f"is {kind}", hint="fetch this file again")
    raise CheckpointError(path, f"is {kind}, not a file", hint="replace it with the file itself")


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted; CheckpointError where it cannot be listed."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise cannot_read(directory, error) from None
