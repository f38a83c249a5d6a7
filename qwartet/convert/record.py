"""What a converted checkpoint keeps of the original, in its folder qwen1, so that it can be converted back bit for bit.

    config.json, generation_config.json, tokenizer_config.json, quantize_config.json, added_tokens.json, *.tiktoken
    conversion.json     what the tensors of the new form do not show

Engines do not look into folders. The folder is untrusted like any other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.writer import copy_files, write_json, writing
from qwartet.errors import CheckpointError

FOLDER = "qwen1"
_FILE = "conversion.json"
ORIGINALS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "quantize_config.json", "added_tokens.json",
    "*.tiktoken",
)  # fmt: skip
AGAIN = "remove the folder qwen1 to derive new configs, or convert the original checkpoint again"


@dataclass(frozen=True)
class Record:
    """Facts about the original's tensors; linears are named as in the network."""

    mlp_width: int  # without weights that were added
    context: int | None  # that NTK was folded for
    biases: Mapping[str, str]  # the linears with a bias, and its dtype
    v2_zeros: tuple[str, ...]  # the symmetric linears whose zeros were of version 2
    without_g_idx: tuple[str, ...]


def write_record(source: Path, output: Path, record: Record) -> None:
    """Makes the folder in the new checkpoint `output`."""
    folder = output / FOLDER
    with writing(folder):
        folder.mkdir()
    copy_files(source, folder, patterns=ORIGINALS)
    write_json(folder / _FILE, asdict(record))


def has_record(directory: Path) -> bool:
    """Whether a directory was made by a conversion that kept a record."""
    return has_file(directory / FOLDER / _FILE)


def read_record(directory: Path) -> Record:
    """The record of a converted checkpoint; CheckpointError for anything but a complete one."""
    path = directory / FOLDER / _FILE
    content = read_json(path)
    names = [field.name for field in fields(Record)]
    if sorted(content) != sorted(names):
        raise CheckpointError(path, f"unexpected keys: {', '.join(sorted(content))[:200]}", hint=AGAIN)
    checks = {
        "mlp_width": _is_count(content["mlp_width"]),
        "context": content["context"] is None or _is_count(content["context"]),
        "biases": _is_of_dtypes(content["biases"]),
        "v2_zeros": _is_of_names(content["v2_zeros"]),
        "without_g_idx": _is_of_names(content["without_g_idx"]),
    }
    if wrong := [name for name in names if not checks[name]]:
        raise CheckpointError(path, f"{wrong[0]} is {content[wrong[0]]!r:.80}", hint=AGAIN)
    names_of = {name: tuple(content[name]) for name in ("v2_zeros", "without_g_idx")}
    return Record(content["mlp_width"], content["context"], content["biases"], **names_of)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_of_dtypes(value: Any) -> bool:
    return isinstance(value, dict) and all(dtype in ("BF16", "F16", "F32") for dtype in value.values())
