"""What lies in a checkpoint's directory? Asked without opening anything, so that no pipe makes us wait."""

from __future__ import annotations

from pathlib import Path

from qwartet.errors import CheckpointError
from qwartet.files import kind_of


def cannot_read(path: Path, error: OSError) -> CheckpointError:
    """The error for what the system does not let us read."""
    hint = "check its permissions, and those of the directories that it is in"
    return CheckpointError(path, f"cannot be read ({error.strerror or error})", hint=hint)


def has_file(path: Path) -> bool:
    """Whether there is a file of this name; CheckpointError for a pipe, a link to nothing, and all else that is none.

    A link to a file is as good as the file: tools that download make links into their caches.
    """
    try:
        kind = kind_of(path)
    except OSError as error:
        raise cannot_read(path, error) from None
    if kind is None or kind == "a file":
        return kind is not None
    if kind == "a link that leads nowhere":
        raise CheckpointError(path, f"is {kind}", hint="fetch this file again")
    raise CheckpointError(path, f"is {kind}, not a file", hint="put the file itself there")


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted; CheckpointError where it cannot be listed."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise cannot_read(directory, error) from None
