"""Writes checkpoint directories: tensors in shards with their index, JSON, and copies of the files beside them.

Every file is on the disk when its function returns. CheckpointError where the disk refuses, with the caller's hint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from qwartet.checkpoint.weight_files import INDEX_NAME
from qwartet.errors import CheckpointError

DEFAULT_SHARD_BYTES = 2_000_000_000  # about what the published checkpoints use
COPIED_FILES = (
    *("generation_config.json", "tokenizer_config.json", "*.tiktoken", "LICENSE*", "NOTICE*"),
    *("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    "chat_template.jinja",
)
NO_ROOM = "free some space there, or choose another directory"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the new checkpoint, read only when its shard is written."""

    name: str
    nbytes: int
    read: Callable[[], Tensor]


def copied_files(source: Path) -> list[Path]:
    """The files that a checkpoint made from this one has too."""
    return [file for pattern in COPIED_FILES for file in source.glob(pattern) if file.is_file()]


def copy_files(source: Path, output: Path, *, hint: str = NO_ROOM) -> None:
    """Copies those files."""
    for file in copied_files(source):
        with writing(output / file.name, hint):
            shutil.copyfile(file, output / file.name)
            flush(output / file.name)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, hint: str = NO_ROOM
) -> None:
    """Writes one safetensors file."""
    with writing(path, hint):
        path.touch()
        mode = path.stat().st_mode  # follows the umask; the library makes files that only their owner can read
        save_file(dict(tensors), path, dict(metadata))
        path.chmod(mode)
        flush(path)


class Sized(Protocol):
    """What has a size on disk."""

    @property
    def nbytes(self) -> int: ...


SizedTensor = TypeVar("SizedTensor", bound=Sized)


def plan_shards(tensors: Sequence[SizedTensor], max_shard_bytes: int) -> list[list[SizedTensor]]:
    """Cuts the tensors, in order, into shards; a shard is larger than the limit only when one tensor is."""
    shards: list[list[SizedTensor]] = [[]]
    used = 0
    for tensor in tensors:
        if shards[-1] and used + tensor.nbytes > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.nbytes
    return shards


def write_shards(
    output: Path, tensors: Sequence[StoredTensor], max_shard_bytes: int = DEFAULT_SHARD_BYTES, *, hint: str = NO_ROOM
) -> None:
    """Writes tensors in their order, as model.safetensors or as shards with an index; reads one shard at a time."""
    shards = plan_shards(tensors, max_shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        content = {tensor.name: tensor.read() for tensor in shard}
        save_tensors(output / file, content, {"format": "pt"}, hint=hint)
        weight_map.update({tensor.name: file for tensor in shard})
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(output / INDEX_NAME, index, hint=hint)


def write_json(path: Path, content: Mapping[str, Any], *, hint: str = NO_ROOM) -> None:
    """Writes an object, indented."""
    with writing(path, hint):
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        flush(path)


def flush(path: Path) -> None:
    """Waits until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path, hint: str = NO_ROOM) -> Iterator[None]:
    """Turns errors of the disk into a CheckpointError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot be written ({error})", hint=hint) from error
