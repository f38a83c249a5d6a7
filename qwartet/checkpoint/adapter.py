"""A LoRA adapter as PEFT saves it: a directory with adapter_config.json and adapter_model.safetensors.

    base_model.model.transformer.h.0.attn.c_attn.lora_A.weight    A [r, K]
    base_model.model.transformer.h.0.attn.c_attn.lora_B.weight    B [N, r]
    base_model.model.transformer.wte.weight                       a whole module (modules_to_save)

y = W x + scale * B A x. Names, dtypes and shapes are checked against the base's layout before a tensor is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qwartet.checkpoint.adapter_config import AdapterConfig, read_adapter_config
from qwartet.checkpoint.directory import has_file, names_in
from qwartet.checkpoint.expected_tensors import FILE_FLOATS
from qwartet.checkpoint.layout import Layout, ModuleSpec
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG, MERGE_IT
from qwartet.checkpoint.safetensors_file import SafetensorsFile, TensorInfo, read_tensor_infos, shown
from qwartet.checkpoint.weight_files import listed
from qwartet.errors import CheckpointError
from qwartet.kernels.low_rank import LowRank

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_LOW_RANK = re.compile(r"(?:base_model\.model\.)?(.{1,200})\.lora_([AB])(?:\.default)?\.weight")
_WHOLE = re.compile(r"(?:base_model\.model\.)?(.{1,200}?)(?:\.modules_to_save(?:\.default)?)?\.weight")
_ANOTHER_BASE = "the adapter belongs to another base model"


@dataclass(frozen=True)
class Adapter:
    """An adapter of one network."""

    directory: Path
    config: AdapterConfig
    linears: Mapping[str, LowRank]  # in the file's dtype, by name in the network: "layers.0.attention.qkv", "lm_head"
    replaced: Mapping[str, Tensor]  # weights [V, C] of modules that were trained whole: "embedding", "lm_head"


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter, valid or not."""
    return has_file(directory / ADAPTER_CONFIG)


def read_adapter(directory: Path, layout: Layout) -> Adapter:
    """The adapter of a directory for the network of a layout, every value checked.

    CheckpointError for anything but plain LoRA in safetensors, for tensors that are missing, surplus, of another shape
    than the base's linears, or not finite.
    """
    config = read_adapter_config(directory)
    path = _weights_file(directory)
    infos = read_tensor_infos(path)
    matrices, whole = _sort(infos, layout)
    _check_complete(path, config, layout, matrices)
    for module, pair in matrices.items():
        _check_pair(layout[module], pair, config)
    for module, info in whole.items():
        _check_floats(info, layout[module].shape)
    file = SafetensorsFile(path, "pread")
    linears = {
        module: LowRank(_read(file, pair["A"]), _read(file, pair["B"]), config.scale_of(layout[module].disk_name))
        for module, pair in matrices.items()
    }
    return Adapter(directory, config, linears, {module: _read(file, info) for module, info in whole.items()})


def _weights_file(directory: Path) -> Path:
    path = directory / ADAPTER_WEIGHTS
    if has_file(path):
        return path
    if pickled := [name for name in names_in(directory) if name.startswith("adapter_model.")]:
        reason = f"holds {listed(pickled)}; only {ADAPTER_WEIGHTS} is read"
        raise CheckpointError(directory, reason, hint="save the adapter as safetensors (PEFT does so by default)")
    raise CheckpointError(directory, f"{ADAPTER_WEIGHTS} is missing", hint="is this the directory of an adapter?")


def _sort(
    infos: Mapping[str, TensorInfo], layout: Layout
) -> tuple[dict[str, dict[str, TensorInfo]], dict[str, TensorInfo]]:
    """Module -> its matrices "A" and "B", and the modules that are replaced; CheckpointError for other tensors."""
    by_disk_name = {spec.disk_name: spec for spec in layout if len(spec.parts) == 1}
    fused = {part for spec in layout if len(spec.parts) > 1 for part, _rows in spec.parts}
    matrices: dict[str, dict[str, TensorInfo]] = {}
    whole: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        if match := _LOW_RANK.fullmatch(name):
            spec, kinds = by_disk_name.get(match[1]), ("linear", "head")
        elif match := _WHOLE.fullmatch(name):
            spec, kinds = by_disk_name.get(match[1]), ("embedding", "head")
        else:
            spec = None
        if match is not None and match[1] in fused:
            reason = "adapts queries, keys or values alone, which is not supported for this family"
            raise CheckpointError(info.file, reason, tensor=shown(name), hint=MERGE_IT)
        if match is None or spec is None or spec.kind not in kinds:
            raise CheckpointError(info.file, "fits no module of this model", tensor=shown(name), hint=_hint(name))
        place, key = (matrices.setdefault(spec.name, {}), match[2]) if ".lora_" in name else (whole, spec.name)
        if key in place:
            raise CheckpointError(info.file, "two tensors are the same matrix of one module", tensor=shown(name))
        place[key] = info
    return matrices, whole


def _hint(name: str) -> str:
    if "lora_magnitude" in name or "lora_embedding" in name:
        return "only LoRA of linears is supported, without DoRA and embeddings"
    return _ANOTHER_BASE


def _check_complete(
    path: Path, config: AdapterConfig, layout: Layout, matrices: Mapping[str, Mapping[str, TensorInfo]]
) -> None:
    """CheckpointError unless every linear that the configuration names has both matrices, and no other has."""
    for module, pair in matrices.items():
        if lost := {"A", "B"} - pair.keys():
            [present] = pair.values()
            raise CheckpointError(path, f"matrix {min(lost)} of this linear is missing", tensor=shown(present.name))
        if not config.adapts(layout[module].disk_name):
            reason = f"target_modules in {config.path.name} does not list this linear"
            raise CheckpointError(path, reason, tensor=shown(pair["A"].name), hint="the files do not belong together")
    linears = [spec for spec in layout if spec.kind == "linear" and len(spec.parts) == 1]
    if config.targets is None:
        missing = [] if matrices else [linears[0].disk_name]
    else:
        missing = [s.disk_name for s in linears if config.adapts(s.disk_name) and s.name not in matrices]
    if missing:
        raise CheckpointError(path, f"the matrices of {listed(missing)} are missing", hint=_ANOTHER_BASE)
    if not matrices:
        raise CheckpointError(path, "holds no low-rank matrices", hint=_ANOTHER_BASE)


def _check_pair(spec: ModuleSpec, pair: Mapping[str, TensorInfo], config: AdapterConfig) -> None:
    rows, columns = spec.shape
    rank = config.rank_of(spec.disk_name)
    for info, side, shape in ((pair["A"], 0, (rank, columns)), (pair["B"], 1, (rows, rank))):
        if len(info.shape) == 2 and info.shape[1 - side] == shape[1 - side] and info.shape[side] != rank:
            reason = f"its rank is {info.shape[side]}, and {config.path.name} says {rank}"
            raise CheckpointError(info.file, reason, tensor=shown(info.name), hint="the files do not belong together")
        _check_floats(info, shape)


def _check_floats(info: TensorInfo, shape: tuple[int, ...]) -> None:
    if info.shape != shape:
        reason = f"shape is {list(info.shape)}; this model needs {list(shape)}"
        raise CheckpointError(info.file, reason, tensor=shown(info.name), hint=_ANOTHER_BASE)
    if info.dtype not in FILE_FLOATS:
        reason = f"dtype is {info.dtype}; it must be BF16, F16 or F32"
        raise CheckpointError(info.file, reason, tensor=shown(info.name))


def _read(file: SafetensorsFile, info: TensorInfo) -> Tensor:
    tensor = file.read(info)
    if bad := int((~torch.isfinite(tensor)).sum()):
        reason = f"{bad} of {tensor.numel()} values are NaN or infinite"
        raise CheckpointError(info.file, reason, tensor=info.name, hint="train it again, or fetch the file again")
    return tensor
