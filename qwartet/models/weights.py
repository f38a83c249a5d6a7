"""The weights of a network's modules, made from a checkpoint: in the dtype computed in, packed for the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.kernels.cpu.weights import PackedHead, PackedWeight
from qwartet.models.checkpoint import Checkpoint
from qwartet.models.config import ModelConfig
from qwartet.models.expected_tensors import read_quantized_weight
from qwartet.models.held_tensors import LoadSettings
from qwartet.models.names import disk_name
from qwartet.quant_format.weight import QuantizedWeight


class Weights:
    """Weights by the names of modules; `settings` say what they become."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, settings: LoadSettings) -> None:
        self.checkpoint, self.config, self.settings = checkpoint, config, settings

    def has_bias(self, module: str) -> bool:
        return f"{disk_name(module)}.bias" in self.checkpoint

    def is_mapped(self, _name: str) -> bool:
        """Whether a tensor of the network ("layers.3.mlp.up.panels") that the checkpoint does not hold is mapped."""
        return False

    def dense(self, module: str, leaf: str) -> Tensor:
        """A float tensor, mapped from the file where it needs no conversion."""
        tensor = self.checkpoint.read(f"{disk_name(module)}.{leaf}")
        return tensor.to(self.settings.device, self.settings.dtype)

    def quantized(self, module: str) -> QuantizedWeight | PackedWeight:
        """A GPTQ linear: packed where the kernels pack, else as the file has it."""
        assert self.settings.gptq is not None, module
        weight = read_quantized_weight(
            self.checkpoint, module, self.config, self.settings.gptq, torch.device(self.settings.device)
        )
        return self.settings.kernels.prepare(weight)

    def packed_head(self, weight: Tensor) -> PackedHead | None:
        """The 8-bit copy of lm_head [V, C], where one is wanted."""
        pack = self.settings.kernels.pack_head
        return pack(weight.detach()) if self.settings.packs_head and pack is not None else None
