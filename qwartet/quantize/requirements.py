"""What a run needs, checked before hours of work: a free target, readable files, disk space, memory for one block."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from qwartet.checkpoint.directory import cannot_read
from qwartet.checkpoint.layout import LINEARS, Layout
from qwartet.checkpoint.planned_tensors import planned_tensors
from qwartet.checkpoint.writer import copied_files
from qwartet.errors import CheckpointError, OutOfMemoryError, SettingError
from qwartet.kernels.device_memory import available_bytes
from qwartet.models.config import ModelConfig
from qwartet.models.families import family_of, layout_of
from qwartet.quant_format.config import GptqConfig
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
            try:
                check_shape(module.shape, config.bits)
            except SettingError as error:
                raise CheckpointError(source, str(error), tensor=module.disk_name) from None


def check_disk_space(target: Path, work: Path, layout: Layout, config: GptqConfig) -> None:
    """SettingError when the result, and the finished blocks that `work` holds until then, exceed the free space."""
    tensors = list(planned_tensors(layout, config, "F16"))
    result = sum(tensor.nbytes for tensor in tensors)
    blocks = sum(tensor.nbytes for tensor in tensors if layout.layer_of(tensor.name) is not None)
    needed = result + blocks - sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    free = shutil.disk_usage(_existing_parent(target)).free
    if needed > free:
        raise SettingError(
            f"{target} needs {_gib(needed)} of disk space and {_gib(free)} are free (the result takes {_gib(result)}, "
            f"its blocks {_gib(blocks)} more until it is complete); free some, or choose a target on another disk"
        )


def check_memory(
    source: Path,
    config: ModelConfig,
    calibration: Sequence[Sequence[int]],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """OutOfMemoryError when one block, or the hidden states of the calibration, exceed the free memory."""
    hidden = 4 * config.hidden_size * sum(map(len, calibration))
    block = block_bytes(config, dtype)
    for place in {torch.device("cpu"), device}:
        parts = {"hidden states of the calibration": hidden} if place.type == "cpu" else {}
        parts |= block if place == device else {}
        needed, free = sum(parts.values()), available_bytes(place)
        if needed > free:
            listed = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
            hint = "free some memory, lower --num-samples, or use a machine with more"
            raise OutOfMemoryError(
                f"{source}: quantising one block needs {_gib(needed)} of memory and {_gib(free)} are free on {place} "
                f"({listed}); {hint}"
            )


def block_bytes(config: ModelConfig, dtype: torch.dtype) -> Mapping[str, int]:
    """What one block takes on its device, at the step that takes most; activations are left out, which are small."""
    modules = layout_of(config).of_layer(0)
    weights = sum(torch.Size(module.shape).numel() for module in modules) * dtype.itemsize
    linears = [module.shape for module in modules if module.kind == "linear"]
    assert len(linears) == len(LINEARS)
    # At the triangular inverse: the Hessian, a copy, the same reversed, its two factors, the identity and the inverse,
    # all [K, K]; the weights [K, N] in fp32, and their codes.
    solver = max(7 * 4 * in_features**2 + 4 * in_features * out_features for out_features, in_features in linears)
    return {"weights of a block": weights, "GPTQ solver": solver}


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
