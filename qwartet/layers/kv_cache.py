"""The paged KV cache: keys and values in fixed blocks, so that requests of any length share one store.

Per layer [num_blocks, num_kv_heads, block_size, head_dim] for keys and the same for values, on that
layer's device. Token i of a request lives in block block_table[i // block_size], offset i % block_size;
its slot is block * block_size + offset. Within a block one head's tokens are contiguous, which is what a
decode kernel streams. (Kwon et al. 2023.)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


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
        shape = (num_blocks, num_kv_heads, block_size, head_dim)
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.keys = [_zeros(shape, dtype, torch.device(device)) for _ in range(num_layers)]
        self.values = [_zeros(shape, dtype, torch.device(device)) for _ in range(num_layers)]

    def write(self, layer: int, key: Tensor, value: Tensor, slot_mapping: Tensor) -> None:
        """Stores key and value [T, H_kv, D] of new tokens at slots [T]."""
        block = torch.div(slot_mapping, self.block_size, rounding_mode="floor")
        offset = slot_mapping % self.block_size
        self.keys[layer][block, :, offset] = key
        self.values[layer][block, :, offset] = value


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, so that no stale NaN can be read; on a CPU their pages take no memory until they are written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks the system for zeroed pages; torch.zeros would write every one of them.
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)


def kv_bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes that one token takes in the cache of all layers."""
    return 2 * num_layers * num_kv_heads * head_dim * dtype.itemsize
