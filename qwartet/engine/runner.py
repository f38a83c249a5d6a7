"""Runs the network over the KV cache; handles tensors, never requests."""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.engine.executors import choose_executor
from qwartet.kernels.cache_layer import CacheDtype
from qwartet.kernels.forward_batch import ForwardBatch
from qwartet.layers.kv_cache import KVCache
from qwartet.models.qwen import QwenModel


class ModelRunner:
    """A model, its cache, and the executor that suits both."""

    def __init__(self, model: QwenModel, num_blocks: int, block_size: int, cache_dtype: CacheDtype) -> None:
        config = model.config
        self.model = model
        self.cache = KVCache(
            num_layers=config.num_layers,
            num_blocks=num_blocks,
            num_kv_heads=model.parallel.share(config.num_kv_heads, "KV heads"),
            block_size=block_size,
            head_dim=config.head_dim,
            dtype=cache_dtype,
            device=model.device,
        )
        self._executor = choose_executor(model, self.cache)

    @torch.inference_mode()
    def run(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [R, C], ready for the head, of the tokens in batch.logits_index."""
        return self._executor.run(batch)
