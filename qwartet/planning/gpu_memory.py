"""Memory on each of several GPUs, by calculation: weights and KV cache evenly shared out by tensor parallelism.

The layout is that of kernels for GPUs: packed codes and scales without stored zeros and group indices, embedding and
head once, no 8-bit copy of the head. The driver's own memory (CUDA context, libraries: some hundred MB) is not counted.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from qwartet.checkpoint.held_tensors import LoadSettings
from qwartet.checkpoint.shards import Checkpoint
from qwartet.engine.engine_config import GPU_BATCHED_TOKENS
from qwartet.errors import SettingError
from qwartet.kernels.backend import Backend, TensorSpec
from qwartet.kernels.cpu.weights import weight_specs
from qwartet.models.config import ModelConfig
from qwartet.planning.memory_plan import NetworkMemory, Workload, cache_bytes_per_token, network_memory
from qwartet.planning.step_memory import gpu_bytes, logits_bytes, sampler_bytes
from qwartet.quant_format.weight import QuantizedShape

GPU_COUNTS = (1, 2, 4)
MOST_GPUS = 64


class _PlannedBackend(Backend):
    """Weights as kernels for GPUs will hold them: as many bytes as in the panels of the CPU."""

    def weight_specs(self, shape: QuantizedShape) -> tuple[TensorSpec, ...] | None:
        return weight_specs(shape)


def gpu_counts(config: ModelConfig, wanted: int | None = None) -> list[int]:
    """How many GPUs to plan for: 1, 2 and 4, or those `wanted`; SettingError where heads cannot be shared out so."""
    possible = [count for count in range(1, MOST_GPUS + 1) if config.num_kv_heads % count == 0]
    if wanted is None:
        return [count for count in GPU_COUNTS if count in possible]
    if wanted not in possible:
        choice = ", ".join(map(str, possible))
        raise SettingError(f"gpus is {wanted}; {config.num_kv_heads} heads can be shared out over {choice}")
    return [wanted]


def gpu_network(checkpoint: Checkpoint, config: ModelConfig, settings: LoadSettings) -> NetworkMemory:
    """The weights as kernels for GPUs hold them, on all GPUs together."""
    on_gpu = replace(settings, device=torch.device("cuda"), backend=_PlannedBackend(), prepares_head=False)
    return network_memory(checkpoint, config, on_gpu)


def gpu_rows(network: NetworkMemory, workload: Workload, num_gpus: int) -> dict[str, int]:
    """Bytes on each GPU for a workload."""
    config = network.config
    step = replace(workload, max_num_batched_tokens=GPU_BATCHED_TOKENS).step
    cache = workload.num_cache_tokens * cache_bytes_per_token(config, workload.kind)
    return {
        "weights": -(-network.weights_bytes // num_gpus),
        "KV cache": -(-cache // num_gpus),
        "rotary tables": network.rotary_bytes,
        "step": gpu_bytes(config, network.settings.dtype.itemsize, num_gpus, step)
        + logits_bytes(config, step)
        + sampler_bytes(config),
    }
