"""The weights of a network's modules, made from a checkpoint: in the dtype computed in, packed for the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.kernels.backend import PreparedHead, PreparedWeight
from qwartet.models.checkpoint import Checkpoint
from qwartet.models.config import ModelConfig
from qwartet.models.expected_tensors import read_quantized_weight
from qwartet.models.held_tensors import LoadSettings
from qwartet.models.names import disk_name


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

    def quantized(self, module: str) -> PreparedWeight:
        """A GPTQ linear in the layout of the backend."""
        assert self.settings.gptq is not None, module
        weight = read_quantized_weight(
            self.checkpoint, module, self.config, self.settings.gptq, torch.device(self.settings.device)
        )
        return self.settings.backend.prepare(weight)

    def prepared_head(self, weight: Tensor) -> PreparedHead | None:
        """The copy of lm_head [V, C] that finds its largest logit sooner, where one is wanted."""
        return self.settings.backend.prepare_head(weight.detach()) if self.settings.prepares_head else None
