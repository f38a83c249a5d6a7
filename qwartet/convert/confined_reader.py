"""The process that reads a pickled file: it confines itself, then writes the tensors as safetensors.

    python -m qwartet.convert.confined_reader SOURCE TARGET

Nothing in Qwartet imports this. An error is one line on standard output, and exit code 3.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from qwartet.checkpoint.safetensors_file import DTYPE_NAMES
from qwartet.convert.confinement import NotConfinedError, confine

REFUSED = 3
_SPARE_BYTES = 2**31  # of address space, for reading, besides the file itself
_BYTES_A_SECOND = 5e6  # slower than any disk


def main(source: Path, target: Path) -> int:
    """Reads `source` with torch's weights-only unpickler, which builds tensors and calls nothing else."""
    torch.set_num_threads(1)
    size = source.stat().st_size
    try:
        with target.open("xb") as file:
            confine(
                more_memory=3 * size + _SPARE_BYTES,
                seconds=int(60 + size / _BYTES_A_SECOND),
                file_bytes=2 * size + 2**20,
            )
            loaded = torch.load(str(source), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
            _write(file, _tensors(loaded))
    except NotConfinedError as error:
        print(f"this system cannot confine the process that reads it: {error}")
        return REFUSED
    except Exception as error:  # whatever a broken or hostile file raises
        print(_reason(error))
        return REFUSED
    return 0


def _reason(error: Exception) -> str:
    """Why a file is refused, in one line; torch's own text for a pickle advises to let it run code."""
    text = str(error)
    if text.startswith("Weights only load failed"):
        found = re.search(
            r"unsupported (?:global|operand|class)\b.{1,200}?(?= whose| was not|\. |$)", text, re.I | re.M
        )
        return f"the pickle does more than store tensors ({found[0] if found else 'it cannot be read'})"
    return f"{type(error).__name__}: {text.partition(chr(10))[0]}"


def _tensors(loaded: object) -> dict[str, Tensor]:
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"holds a {type(loaded).__name__}, not a dict of tensors")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{str(name)[:80]!r} is of type {type(value).__name__}, not a tensor")
        if value.dtype not in DTYPE_NAMES or value.layout != torch.strided:
            raise ValueError(f"{name[:80]!r} is of {value.dtype}, {value.layout}, which safetensors cannot store")
    return loaded


def _write(file: BinaryIO, tensors: dict[str, Tensor]) -> None:
    begin, entries = 0, {}
    for name, tensor in tensors.items():
        end = begin + tensor.numel() * tensor.itemsize
        shape = list(tensor.shape)
        entries[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
