"""The paged KV cache: keys and values in fixed blocks, so that requests of any length share one store.

Per layer [num_blocks, num_kv_heads, block_size, head_dim] for keys and the same for values, on that
layer's device. Token i of a request lives in block block_table[i // block_size], offset i % block_size;
its slot is block * block_size + offset. Within a block one head's tokens are contiguous, which is what a
decode kernel streams. (Kwon et al. 2023.)
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from qwartet.kernels import native
from qwartet.kernels.cache_layer import CacheLayer
from qwartet.kernels.cpu import cache_structure


class KVCache:
    """Keys and values of all layers."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_blocks: int,
        num_kv_heads: int,
        block_size: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        """`dtype` int8 keeps a scale for each head of each token beside the codes."""
        shape = (num_blocks, num_kv_heads, block_size, head_dim)
        place = torch.device(device)
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._layers = [
            CacheLayer(
                _zeros(shape, dtype, place),
                _zeros(shape, dtype, place),
                _zeros(shape[:3], torch.float32, place) if dtype == torch.int8 else None,
                _zeros(shape[:3], torch.float32, place) if dtype == torch.int8 else None,
            )
            for _ in range(num_layers)
        ]

    @cached_property
    def native_layers(self) -> list[native.CacheLayer]:
        """The same for the native kernels; the tensors are never replaced, so these stay right."""
        return [cache_structure(layer) for layer in self._layers]

    def layer(self, layer: int) -> CacheLayer:
        """The tensors of one layer."""
        return self._layers[layer]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, so that no stale NaN can be read; on a CPU their pages take no memory until they are written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks the system for zeroed pages; torch.zeros would write every one of them.
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)


def kv_bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes that one token takes in the cache of all layers; int8 has a scale of 4 bytes for each head."""
    head_bytes = head_dim * dtype.itemsize + (4 if dtype == torch.int8 else 0)
    return 2 * num_layers * num_kv_heads * head_bytes
