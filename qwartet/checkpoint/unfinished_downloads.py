"""What download tools leave beside a file that they have not finished.

MODEL.safetensors.aria2     the file itself has its full size already, and zeros where nothing came yet
MODEL.safetensors.part      the file is made from this one when all is there: the two do not belong together
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from qwartet.errors import CheckpointError, CheckpointWarning

IN_PLACE = (".aria2", ".st", ".lftp-pget-status")
"""Endings of the notes of aria2, axel and lftp, which write into the file itself and remove the note at the end."""

BESIDE = (
    ".part", ".partial", ".incomplete", ".crdownload", ".opdownload", ".download", ".downloading", ".fdmdownload",
    ".tmp", ".temp", "____temp", ".!qb", ".!ut", ".bc!", ".xltd", ".td",
)  # fmt: skip
"""Endings, in small letters, of files that get their name when all of them is there."""

_PLACES = ("", "._____temp", ".cache/huggingface/download")  # within the directory: modelscope's and the hub's own


def check_downloads(directory: Path, weights: Iterable[Path]) -> None:
    """CheckpointError where a tool still writes into a file of a checkpoint, CheckpointWarning for what others have
    left. Looked at are the files of its weights, its JSON files and its vocabulary.
    """
    left: list[str] = []
    for file in (*weights, *sorted(directory.glob("*.json")), *sorted(directory.glob("*.tiktoken"))):
        for one in {file, Path(os.path.realpath(file))}:  # a link that leads in a circle is refused where it is read
            for note in (one.with_name(one.name + ending) for ending in IN_PLACE):
                if note.is_file():
                    reason = f"its download is not finished: {note.name} lies beside it"
                    hint = f"resume it with the tool that began it, or remove {note.name} if the file is whole"
                    raise CheckpointError(file, reason, hint=hint)
        left += _left_of(file)
    if left:
        names = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        message = (
            f"{directory}: what a download left lies beside the files that are loaded: {names}; "
            "remove it if they are whole, else fetch them again"
        )
        warnings.warn(message, CheckpointWarning, stacklevel=3)


def _left_of(file: Path) -> Iterator[str]:
    for place in _PLACES:
        try:
            names = sorted(path.name for path in (file.parent / place).iterdir())
        except OSError:
            continue
        for name in names:
            is_moved_later = place == "._____temp" and name == file.name
            if is_moved_later or (
                name.lstrip(".").startswith(f"{file.name}") and name.lower().endswith(BESIDE) and name != file.name
            ):
                yield f"{place}/{name}" if place else name
