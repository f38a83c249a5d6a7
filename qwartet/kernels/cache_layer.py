"""One layer of the paged KV cache, as kernels see it, and how a token is written into it.

An int8 cache holds each head of each token as codes and one scale:  x ~ scale * code,  scale = max |x| / 127.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CacheLayer:
    """Keys and values [num_blocks, H_kv, block_size, D]; int8 has fp32 scales [num_blocks, H_kv, block_size]."""

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    @property
    def block_size(self) -> int:
        return self.keys.shape[2]

    def store(self, key: Tensor, value: Tensor, slot_mapping: Tensor) -> None:
        """Writes key and value [T, H_kv, D] of new tokens at slots [T]."""
        block = torch.div(slot_mapping, self.block_size, rounding_mode="floor")
        offset = slot_mapping % self.block_size
        for new, stored, scales in ((key, self.keys, self.key_scales), (value, self.values, self.value_scales)):
            if scales is not None:
                new, scales[block, :, offset] = quantize_heads(new)
            stored[block, :, offset] = new

    def gather(self, blocks: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [length, H_kv, D] of a request whose blocks are given; int8 comes back as fp32."""
        out = []
        for stored, scales in ((self.keys, self.key_scales), (self.values, self.value_scales)):
            heads = stored[blocks] if scales is None else stored[blocks].float() * scales[blocks].unsqueeze(-1)
            out.append(heads.transpose(1, 2).flatten(0, 1)[:length])
        return out[0], out[1]


def quantize_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """Heads x [..., D] -> int8 codes [..., D] and fp32 scales [...]; a head of zeros gets scale 0."""
    x32 = x.float()
    largest = x32.abs().amax(-1)
    inverse = torch.where(largest > 1e-30, torch.full_like(largest, 127.0) / largest, 0.0)  # one rounding, as natively
    return (x32 * inverse.unsqueeze(-1)).round().to(torch.int8), largest / 127.0
