"""The weights of a network, made from a checkpoint: in the compute dtype and the backend's layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwartet.checkpoint.held_tensors import LoadSettings
from qwartet.checkpoint.layout import ModuleSpec
from qwartet.checkpoint.shards import Checkpoint
from qwartet.errors import CheckpointError
from qwartet.kernels.backend import PreparedHead, PreparedWeight
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.weight import QuantizedWeight


class Weights:
    """Weights of modules; `settings` say what they become."""

    def __init__(self, checkpoint: Checkpoint, settings: LoadSettings) -> None:
        self.checkpoint, self.settings = checkpoint, settings

    def has_bias(self, module: ModuleSpec) -> bool:
        return module.has_bias(self.checkpoint)

    def is_mapped(self, _name: str) -> bool:
        """Whether a tensor of the network ("layers.3.mlp.up.panels") that the checkpoint does not hold is mapped."""
        return False

    def dense(self, module: ModuleSpec, leaf: str) -> Tensor:
        """A float tensor, mapped from the file if it needs no conversion and is stored in one part."""
        parts = [self.checkpoint.read(name) for name in module.disk_names(leaf)]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.to(self.settings.device, self.settings.dtype)

    def quantized(self, module: ModuleSpec) -> PreparedWeight:
        """A GPTQ linear in the layout of the backend."""
        assert self.settings.gptq is not None, module
        weight = read_quantized_weight(self.checkpoint, module, self.settings.gptq, self.settings.device)
        return self.settings.backend.prepare(weight)

    def prepared_head(self, weight: Tensor) -> PreparedHead | None:
        """The 8-bit output head made from lm_head [V, C], if the settings ask for it."""
        return self.settings.backend.prepare_head(weight.detach()) if self.settings.prepares_head else None


def read_quantized_weight(
    checkpoint: Checkpoint, module: ModuleSpec, gptq: GptqConfig, device: torch.device
) -> QuantizedWeight:
    """The checked GPTQ weight of one linear, as the file has it; parts are joined along their rows."""
    columns, fields = module.shape[1], module.fields
    leaves = ("qweight", "qzeros", "scales", "g_idx", *(["bias"] if module.has_bias(checkpoint) else []))
    parts = [_read_part(checkpoint, name, leaves, (rows, columns), fields, gptq, device) for name, rows in module.parts]
    try:
        return parts[0] if len(parts) == 1 else QuantizedWeight.join(parts)
    except ValueError as error:
        file = checkpoint.info(module.disk_names("qweight")[0]).file
        raise CheckpointError(file, f"cannot be joined into {module.name}: {error}", tensor=module.disk_name) from None


def _read_part(
    checkpoint: Checkpoint,
    name: str,
    leaves: Sequence[str],
    want: tuple[int, int],
    fields: str,
    gptq: GptqConfig,
    device: torch.device,
) -> QuantizedWeight:
    file = checkpoint.info(f"{name}.qweight").file
    names = {leaf: f"{name}.{leaf}" for leaf in leaves}
    tensors = {leaf: checkpoint.read(full).to(device) for leaf, full in names.items() if full in checkpoint}
    weight = QuantizedWeight.from_tensors(tensors, gptq, name=name, path=file)
    found = (weight.out_features, weight.in_features)
    if found != want:
        reason = f"holds a weight of {list(found)} at {gptq.bits} bits; config.json implies {list(want)} ({fields})"
        raise CheckpointError(file, reason, tensor=f"{name}.qweight", hint="bits, or one of these fields, is wrong")
    return weight
