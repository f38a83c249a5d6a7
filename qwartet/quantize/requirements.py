"""What a run needs, checked before hours of work: a free target, readable files, disk space, memory for one block."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from qwartet.checkpoint.directory import cannot_read
from qwartet.checkpoint.layout import Layout
from qwartet.checkpoint.planned_tensors import planned_tensors
from qwartet.checkpoint.writer import copied_files
from qwartet.errors import CheckpointError, OutOfMemoryError, SettingError
from qwartet.kernels.device_memory import available_bytes
from qwartet.models.config import ModelConfig
from qwartet.models.families import family_of
from qwartet.quant_format.config import GptqConfig
from qwartet.quantize.memory import QuantizeLoad, device_rows, host_rows
from qwartet.quantize.solver import check_shape

GIB = 2**30


def check_target(target: Path) -> None:
    """SettingError for a target that exists, CheckpointError for one that cannot be made."""
    if os.path.lexists(target):
        raise SettingError(f"{target} exists; choose another name, or remove it")
    parent = _existing_parent(target)
    reason = None
    if not parent.is_dir():
        reason = f"{parent} is not a directory"
    elif not os.access(parent, os.W_OK | os.X_OK):
        reason = f"{parent} is not writable"
    if reason is not None:
        raise CheckpointError(target, f"cannot be written ({reason})", hint="choose another target directory")


def check_files(source: Path, config: ModelConfig) -> None:
    """VocabularyError or CheckpointError for a vocabulary that is broken, and for files to copy that are unreadable."""
    for file in copied_files(source):
        try:
            file.open("rb").close()
        except OSError as error:
            raise cannot_read(file, error) from None
    family_of(config).load_tokenizer(source)


def check_sizes(source: Path, layout: Layout, config: GptqConfig) -> None:
    """CheckpointError for a linear that cannot be packed."""
    for module in layout:
        if module.kind == "linear":
            for name, rows in module.parts:
                try:
                    check_shape((rows, *module.shape[1:]), config.bits)
                except SettingError as error:
                    raise CheckpointError(source, str(error), tensor=name) from None


def check_disk_space(
    target: Path, work: Path, layout: Layout, config: GptqConfig, spilled: Mapping[Path, int] | None = None
) -> None:
    """SettingError when the result, and the finished blocks that `work` holds until then, exceed the free space.

    `spilled`: bytes that the run writes to other directories meanwhile, which may be on the same disk.
    """
    tensors = list(planned_tensors(layout, config, "F16"))
    result = sum(tensor.nbytes for tensor in tensors)
    blocks = sum(tensor.nbytes for tensor in tensors if layout.layer_of(tensor.name) is not None)
    needed = result + blocks - sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    place = _existing_parent(target)
    for directory, size in (spilled or {}).items():
        own = _existing_parent(directory)
        if not own.is_dir() or not os.access(own, os.W_OK | os.X_OK):
            raise CheckpointError(directory, f"cannot be written ({own})", hint="choose another directory for --spill")
        shared = needed if own.stat().st_dev == place.stat().st_dev else 0
        free = shutil.disk_usage(own).free
        if size + shared > free:
            text = f"{directory} needs {_gib(size)} of disk space for activations and {_gib(max(free - shared, 0))} are"
            raise SettingError(f"{text} free; choose another directory, or lower --num-samples")
    free = shutil.disk_usage(place).free
    if needed > free:
        raise SettingError(
            f"{target} needs {_gib(needed)} of disk space and {_gib(free)} are free (the result takes {_gib(result)}, "
            f"its blocks {_gib(blocks)} more until it is complete); free some, or choose a target on another disk"
        )


def check_memory(
    source: Path,
    config: ModelConfig,
    load: QuantizeLoad,
    *,
    dtype: torch.dtype,
    device: torch.device,
    order: bool = False,
) -> None:
    """OutOfMemoryError when one block, or the activations of the calibration, exceed the free memory."""
    block = device_rows(config, load, dtype=dtype, device=device, order=order)
    for place in {torch.device("cpu"), device}:
        parts = host_rows(config, load, dtype) if place.type == "cpu" else {}
        parts = {**parts, **(block if place == device else {})}
        needed, free = sum(parts.values()), available_bytes(place)
        if needed > free:
            listed = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
            spill = "" if load.is_spilled else "keep activations on a disk (--spill), "
            hint = f"free some memory, {spill}lower --num-samples, or use a machine with more"
            raise OutOfMemoryError(
                f"{source}: quantising one block needs {_gib(needed)} of memory and {_gib(free)} are free on {place} "
                f"({listed}); {hint}"
            )


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
