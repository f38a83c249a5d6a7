"""A directory with pickled weights (*.bin) -> a new one with the same tensors as safetensors.

Loading a pickle can run code. So a separate process (confined_reader.py) reads each file with torch's weights-only
unpickler, without network access and with limited memory and time; its output is then checked like any untrusted file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file, names_in
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.safetensors_file import TensorInfo, read_tensor_infos
from qwartet.checkpoint.weight_files import BASE_KEYS, INDEX_NAME, is_stray, listed, pickled_weights
from qwartet.checkpoint.writer import COPIED_FILES
from qwartet.errors import CheckpointError, SettingError
from qwartet.files import atomic_write, check_free_space

OnBytes = Callable[[int, int], None]
"""Called with the bytes converted since the last call, and the total."""

_CONFIGS = ("config.json", "quantize_config.json", "quant_config.json")
_BIN_NAME = re.compile(r"\w[\w.-]{0,200}\.(bin|pt|pth)", re.ASCII)
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")  # no keys, no proxies


def convert_pickled(source: Path, target: Path, on_bytes: OnBytes | None = None) -> list[str]:
    """Writes the checkpoint `source` into the new directory `target`; returns the names of the files with tensors.

    CheckpointError if a file cannot be read or does not match its index, SettingError if there is nothing to convert or
    `target` exists.
    """
    files = _pickled_files(source)
    if os.path.lexists(target):
        raise SettingError(f"{target} exists; choose another name, or remove it")
    total = sum(file.stat().st_size for file in files)
    check_free_space(target, total)
    with atomic_write(target) as output:
        output.mkdir()
        weight_map: dict[str, TensorInfo] = {}
        for number, file in enumerate(files, start=1):
            name = "model.safetensors" if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
            infos = _converted(file, output / name)
            if again := sorted(weight_map.keys() & infos.keys()):
                raise CheckpointError(file, f"holds {listed(again)} again", hint="remove one of the two files")
            weight_map |= infos
            if on_bytes is not None:
                on_bytes(file.stat().st_size, total)
        _check_index(source, weight_map)
        names = sorted({info.file.name for info in weight_map.values()})
        if len(files) > 1:
            _write_index(output, weight_map)
        _copy_rest(source, output)
    return names


def _pickled_files(source: Path) -> list[Path]:
    """The files to read: those of the index, or all that can hold weights."""
    names = names_in(source)
    if any(name.endswith(".safetensors") and not is_stray(name) for name in names):
        raise SettingError(
            f"{source}: already holds .safetensors files; there is nothing to convert (--to qwen2 changes the layout)"
        )
    found = pickled_weights(names)
    indexes = [name for name in names if name.endswith(".bin.index.json")]
    if indexes:
        found = sorted(set(_index(source / indexes[0]).values()))
    if not found:
        raise SettingError(f"{source}: holds no pickled weights (*.bin); pass a checkpoint directory")
    for name in found:
        if not isinstance(name, str) or not _BIN_NAME.fullmatch(name):
            raise CheckpointError(source, f"names the file {name!r:.80}, which is not a plain .bin file name")
    missing = [name for name in found if not has_file(source / name)]
    if missing:
        raise CheckpointError(
            source, f"{len(missing)} of {len(found)} files missing: {listed(missing)}", hint="fetch them"
        )
    return [source / name for name in found]


def _index(path: Path) -> dict[str, Any]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(path, "has no weight_map with file names", hint="fetch this file again")
    return weight_map


def _converted(file: Path, output: Path) -> dict[str, TensorInfo]:
    """The tensors of one file, written to `output` by another process and checked by this one."""
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    environment |= {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-P",
        "-m",
        "qwartet.convert.confined_reader",
        str(file.resolve()),
        str(output.resolve()),
    ]
    ended = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    if ended.returncode == -signal.SIGXCPU:
        raise CheckpointError(file, "takes longer to read than any intact file", hint="fetch this file again")
    if ended.returncode:
        said = ended.stdout[:500].decode("utf-8", "replace").strip() or f"the reader ended with {ended.returncode}"
        raise CheckpointError(file, f"cannot be converted ({said})", hint="fetch it again, or use safetensors")
    return read_tensor_infos(output)


def _check_index(source: Path, found: dict[str, TensorInfo]) -> None:
    for name in names_in(source):
        if name.endswith(".bin.index.json") and (absent := sorted(_index(source / name).keys() - found.keys())):
            reason = f"{len(absent)} tensors of the index are in no file: {listed(absent)}"
            raise CheckpointError(
                source / name, reason, hint="index and files do not belong together; fetch both again"
            )


def _write_index(output: Path, tensors: dict[str, TensorInfo]) -> None:
    total = sum(info.nbytes for info in tensors.values())
    weight_map = {name: info.file.name for name, info in sorted(tensors.items())}
    _write_json(output / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _copy_rest(source: Path, output: Path) -> None:
    """Configs, vocabulary and licences; configs that name the weights get the new name."""
    for pattern in COPIED_FILES:
        for file in source.glob(pattern):
            if has_file(file):
                shutil.copyfile(file, output / file.name)
    for name in filter(lambda name: has_file(source / name), _CONFIGS):
        content = read_json(source / name)
        for part in (content, content.get("quantization_config")):
            if isinstance(part, dict):
                part.update({key: "model" for key in BASE_KEYS if part.get(key) is not None})
        _write_json(output / name, content)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
