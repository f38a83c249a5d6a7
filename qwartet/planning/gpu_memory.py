"""Calculated memory on each of several GPUs: weights and KV cache are split by heads, else by layers.

The layout is that of GPU kernels: packed codes and scales without stored zeros and group indices, embedding and head
once, no 8-bit output head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from qwartet.checkpoint.held_tensors import LoadSettings
from qwartet.checkpoint.shards import Checkpoint
from qwartet.engine.engine_config import GPU_BATCHED_TOKENS
from qwartet.errors import SettingError
from qwartet.kernels.backend import Backend, TensorSpec
from qwartet.kernels.cpu.weights import weight_specs
from qwartet.models.config import ModelConfig
from qwartet.planning.memory_plan import (
    NetworkMemory,
    Plan,
    cache_bytes_per_token,
    network_memory,
)
from qwartet.planning.step_memory import gpu_bytes, logits_bytes, sampler_bytes
from qwartet.quant_format.weight import QuantizedShape

GPU_COUNTS = (1, 2, 4)
MOST_GPUS = 64
CUDA_CONTEXT_BYTES = 2**29  # an allowance for the CUDA context and its libraries

Split = Literal["none", "heads", "layers"]


class _PlannedBackend(Backend):
    """Weights as GPU kernels will hold them: as many bytes as in the CPU's panels."""

    def weight_specs(self, shape: QuantizedShape) -> tuple[TensorSpec, ...] | None:
        return weight_specs(shape)


def gpu_counts(config: ModelConfig, wanted: int | None = None) -> list[int]:
    """Numbers of GPUs to plan for: `wanted`, else those of 1, 2 and 4 that divide the heads evenly.

    SettingError for fewer than one, and for more than there are layers or than 64.
    """
    if wanted is None:
        return [count for count in GPU_COUNTS if config.num_kv_heads % count == 0]
    most = min(MOST_GPUS, config.num_layers)
    if not 1 <= wanted <= most:
        raise SettingError(f"gpus is {wanted}; it must be a number from 1 to {most}")
    return [wanted]


def gpu_network(checkpoint: Checkpoint, config: ModelConfig, settings: LoadSettings) -> NetworkMemory:
    """The weights as GPU kernels hold them, over all GPUs."""
    on_gpu = replace(settings, device=torch.device("cuda"), backend=_PlannedBackend(), prepares_head=False)
    return network_memory(checkpoint, config, on_gpu)


@dataclass(frozen=True)
class GpuPlan(Plan):
    """The memory of each of `num_gpus` GPUs; sizes are those of the fullest one."""

    num_gpus: int
    gpu_bytes: int | None = None  # memory of each GPU; None where unknown

    @property
    def split(self) -> Split:
        """Tensor parallelism where the heads divide evenly, else each GPU runs some of the layers."""
        if self.num_gpus == 1:
            return "none"
        return "heads" if self.network.config.num_kv_heads % self.num_gpus == 0 else "layers"

    @property
    def rows(self) -> dict[str, int]:
        """What takes memory on one GPU."""
        config, workload, network = self.network.config, self.workload, self.network
        step = replace(workload, max_num_batched_tokens=GPU_BATCHED_TOKENS).step
        cache = workload.num_cache_tokens * cache_bytes_per_token(config, workload.kind)
        num_sharing = 1
        if self.split == "layers":
            num_layers = -(-config.num_layers // self.num_gpus)
            ends = max(network.weights["embedding"], network.weights["head"])
            weights = sum(sorted(network.layer_bytes)[-num_layers:]) + ends
            cache = cache * num_layers // config.num_layers
        else:
            num_sharing = self.num_gpus
            weights, cache = -(-network.weights_bytes // num_sharing), -(-cache // num_sharing)
        itemsize = network.settings.dtype.itemsize
        scratch = gpu_bytes(config, itemsize, num_sharing, step) + logits_bytes(config, step) + sampler_bytes(config)
        return {
            "weights": weights,
            "KV cache": cache,
            "rotary tables": network.rotary_bytes,
            "step": scratch,
            "CUDA context": CUDA_CONTEXT_BYTES,
        }

    @property
    def fits(self) -> bool:
        """Whether each GPU holds its share; false where their memory is unknown."""
        return self.gpu_bytes is not None and self.total_bytes <= self.gpu_bytes
