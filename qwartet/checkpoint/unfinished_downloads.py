"""What download tools leave beside an incomplete file.

MODEL.safetensors.aria2     MODEL.safetensors has its full size already, with zeros where data is missing
MODEL.safetensors.part      is renamed to MODEL.safetensors when complete: an existing file of that name is another one
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from qwartet.errors import CheckpointError, CheckpointWarning

IN_PLACE = (".aria2", ".st", ".lftp-pget-status")
"""Suffixes of the control files of aria2, axel and lftp, which write into the file itself and finally remove these."""

BESIDE = (
    ".part", ".partial", ".incomplete", ".crdownload", ".opdownload", ".download", ".downloading", ".fdmdownload",
    ".tmp", ".temp", "____temp", ".!qb", ".!ut", ".bc!", ".xltd", ".td",
)  # fmt: skip
"""Suffixes, in lower case, of partial files that are renamed when complete."""

_PLACES = ("", "._____temp", ".cache/huggingface/download")  # modelscope and the hub's library use folders of their own


def check_downloads(directory: Path, weights: Iterable[Path]) -> None:
    """CheckpointError if a tool has not finished one of a checkpoint's files, CheckpointWarning for other leftovers.

    Checks the weights, the JSON files and the vocabulary.
    """
    left: list[str] = []
    for file in (*weights, *sorted(directory.glob("*.json")), *sorted(directory.glob("*.tiktoken"))):
        for one in {file, Path(os.path.realpath(file))}:  # a circular link is rejected when it is read
            for note in (one.with_name(one.name + ending) for ending in IN_PLACE):
                if note.is_file():
                    reason = f"its download is not finished: {note.name} still exists"
                    hint = f"resume it with the tool that started it, or remove {note.name} if the file is complete"
                    raise CheckpointError(file, reason, hint=hint)
        left += _left_of(file)
    if left:
        names = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        message = (
            f"{directory}: found leftovers of a download: {names}; "
            "remove them if the checkpoint's files are complete, otherwise fetch those again"
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
