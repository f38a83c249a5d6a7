"""The paged KV cache: keys and values in fixed blocks, so that requests of any length share one store.

Per layer [num_blocks, num_kv_heads, block_size, head_dim] for keys and the same for values, on that
layer's device; kernels/cache_layer.py defines how a head is stored. Token i of a request lives in
block block_table[i // block_size], offset i % block_size; its slot is block * block_size + offset. Within a
block one head's tokens are contiguous, so a decode kernel streams them. (Kwon et al. 2023.)
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from qwartet.errors import SettingError
from qwartet.kernels.cache_layer import INT4_GROUP, CacheDtype, CacheLayer, head_bytes, new_layer

BLOCK_SIZE = 16  # tokens of a block, except in some tests


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
        dtype: CacheDtype,
        device: torch.device | str = "cpu",
    ) -> None:
        """`dtype`: a float dtype, "int8" or "int4". SettingError where int4 does not support the heads."""
        if dtype == "int4" and head_dim % INT4_GROUP:
            reason = f"an int4 KV cache needs heads of a multiple of {INT4_GROUP} values, but these have {head_dim}"
            raise SettingError(f"{reason}; use int8")
        zeros = partial(_zeros, device=torch.device(device))
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.layers: list[CacheLayer] = [  # their tensors are never replaced
            new_layer(num_blocks, num_kv_heads, block_size, head_dim, dtype, zeros) for _ in range(num_layers)
        ]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, so that no stale NaN is ever read; on a CPU their pages take no memory until they are written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy gets zeroed pages from the system; torch.zeros would write every one of them.
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)


def choose_cache_dtype(name: str, model_dtype: torch.dtype) -> CacheDtype:
    """Resolves a user's kv_cache_dtype, "auto" being the model's dtype; SettingError for an unknown one."""
    choices: dict[str, CacheDtype] = {"auto": model_dtype, "int8": "int8", "int4": "int4"}
    if name not in choices:
        raise SettingError(f"kv_cache_dtype is {name!r}; it must be one of {', '.join(choices)}")
    return choices[name]


def kv_bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, dtype: CacheDtype) -> int:
    """Bytes that one token takes in the cache of all layers."""
    return 2 * num_layers * num_kv_heads * head_bytes(head_dim, dtype)
