"""Breaks a checkpoint on purpose (edits of its JSON files, headers and tensors), and says what loading it gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwartet.errors import CheckpointError
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.load import load_model


def edit_json(path: Path, changes: dict[str, Any], *, remove: tuple[str, ...] = ()) -> None:
    """Changes and removes keys of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in remove}), encoding="utf-8")


def add_rows(directory: Path, num_rows: int) -> None:
    """Makes embedding and output layer of a tiny float checkpoint longer, with rows of ones."""
    edit_json(directory / "config.json", {"vocab_size": num_rows})

    def lengthen(tensors: dict[str, Tensor]) -> None:
        for name in ("transformer.wte.weight", "lm_head.weight"):
            rows = tensors[name]
            tensors[name] = torch.cat([rows, rows.new_ones(num_rows - len(rows), rows.shape[1])])

    edit_tensors(directory / "model.safetensors", lengthen)


def split_file(path: Path) -> tuple[bytes, bytes]:
    """Header and data of a .safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def join_file(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def edit_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the header of a file and leaves the data as it is."""
    text, data = split_file(path)
    header = json.loads(text)
    change(header)
    join_file(path, json.dumps(header).encode(), data)


def edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Rewrites a file with its tensors changed."""
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def set_tensor(path: Path, name: str, value: Tensor | None) -> None:
    """Replaces a tensor by another, or removes it."""
    edit_tensors(path, lambda tensors: tensors.pop(name) if value is None else tensors.__setitem__(name, value))


def refused(directory: Path, file: str | None, *words: str, tensor: str | None = None, **settings) -> CheckpointError:
    """The error of loading a directory; it must name this file, this tensor and these words, in one short line."""
    with pytest.raises(CheckpointError) as caught:
        load_model(directory, **settings)
    error = caught.value
    assert error.path == str(directory / file if file else directory), error
    assert error.tensor == tensor, error
    for word in words:
        assert word in str(error), error
    assert str(error).isprintable() and len(str(error)) < 1000, error
    return error


def logits(directory: Path, **settings) -> Tensor:
    """Logits of five ids, computed in fp32."""
    model = load_model(directory, dtype="fp32", **settings)
    with torch.no_grad():
        return model(dense_batch([[1, 2, 3, 300, 5]], model.config.position))
