"""Merges a LoRA adapter into its base: W + scale * B A, in fp32 and rounded once; modules trained whole are replaced.

One shard is in memory at a time. The result has the base's shards, dtypes, configuration and vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from qwartet.checkpoint.adapter import Adapter, is_adapter, read_adapter
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG
from qwartet.checkpoint.writer import copy_files, flush, save_tensors, write_json
from qwartet.errors import CheckpointError, SettingError
from qwartet.files import atomic_write, check_free_space
from qwartet.kernels.low_rank import LowRank
from qwartet.models.families import check_first_generation
from qwartet.models.load import OpenCheckpoint, open_checkpoint

OnBytes = Callable[[int, int], None]


@dataclass(frozen=True)
class Merged:
    """What a merge wrote."""

    output: str
    files: list[str]
    bytes: int
    linears: int  # that got a low-rank product
    replaced: int  # modules


def base_of(adapter: Path) -> str:
    """The base model named in an adapter; SettingError if it names none, CheckpointError without an adapter."""
    if not is_adapter(adapter):
        raise CheckpointError(
            adapter, "holds no adapter (adapter_config.json)", hint="pass the directory of an adapter"
        )
    base = read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise SettingError(f"{adapter} does not name its base model; pass it with --base")
    return base


def merge(adapter: Path, base: Path, output: Path, on_bytes: OnBytes | None = None) -> Merged:
    """Writes the merged checkpoint into the new directory `output`; an interrupted merge leaves nothing behind.

    CheckpointError for an adapter or base that is damaged or not of the other; SettingError for a quantised base.
    """
    if os.path.lexists(output):
        raise SettingError(f"{output} exists; choose another name, or remove it")
    opened = open_checkpoint(base)
    if opened.gptq is not None:
        raise SettingError(
            f"{base} is quantised, and its codes cannot hold an adapter; merge into the float model of the same name, "
            "then quantise the result (qwartet quantize)"
        )
    check_first_generation(opened.config, base, "merging")
    found = read_adapter(adapter, opened.layout)
    check_free_space(output.absolute(), opened.checkpoint.nbytes, "free some space, or choose another disk")
    done = 0
    with atomic_write(output) as unfinished:
        unfinished.mkdir()
        for file in opened.checkpoint.files:
            names = [name for name in opened.checkpoint if opened.checkpoint.info(name).file == file]
            tensors = {name: _merged(name, opened, found) for name in names}
            save_tensors(unfinished / file.name, tensors, {"format": "pt"})
            size = sum(opened.checkpoint.info(name).nbytes for name in names)
            done += size
            if on_bytes is not None:
                on_bytes(size, opened.checkpoint.nbytes)
        if opened.checkpoint.index is not None:
            write_json(unfinished / opened.checkpoint.index.name, read_json(opened.checkpoint.index))
        write_json(unfinished / "config.json", read_json(base / "config.json"))
        copy_files(base, unfinished)
        flush(unfinished)
    files = sorted(path.name for path in output.iterdir())
    return Merged(str(output), files, done, len(found.linears), len(found.replaced))


def _merged(name: str, opened: OpenCheckpoint, adapter: Adapter) -> Tensor:
    """A tensor of the result, in the base's dtype; CheckpointError where a value does not fit it."""
    module, _, leaf = name.rpartition(".")
    spec = next((spec for spec in opened.layout if spec.disk_name == module), None)
    tensor = opened.checkpoint.read(name)
    if spec is None or leaf != "weight" or not {spec.name} & {*adapter.linears, *adapter.replaced}:
        return tensor
    exact = adapter.replaced.get(spec.name, tensor).float()
    if (low_rank := adapter.linears.get(spec.name)) is not None:
        exact = exact + _product(low_rank)
    rounded = exact.to(tensor.dtype)
    if not rounded.isfinite().all():
        reason = f"the merged weight reaches {exact.abs().max():g}, more than {tensor.dtype} holds"
        raise CheckpointError(adapter.directory, reason, tensor=name, hint="check the adapter's scale (lora_alpha)")
    return rounded


def _product(low_rank: LowRank) -> Tensor:
    """scale * B A in fp32, [N, K]."""
    return low_rank.b.float() @ low_rank.a.float() * low_rank.scale
