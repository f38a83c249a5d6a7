"""One layer of the paged KV cache, as kernels see it, and how tokens are written to it and read back.

    floats    the values as they are
    int8      codes -127 .. 127 and a scale for each head of each token:  x ~ scale * code
    int4      codes -7 .. 7 and a scale in the same way

    x: the head's Walsh-Hadamard transform (reference/hadamard.py)
    code = round(x / step), step = max |x| / 127 or 7;      scale = x . x / x . code

With this scale x . (scale * code) is x . x: the error is orthogonal to the head. An error along the head would change
its length, and with it the score of every query in its direction.

Two codes of an int4 cache share a byte, each with 8 added so that it is not negative. Every 32 codes c are 16 bytes b:

    b[i] = (c[i] + 8) + 16 (c[16 + i] + 8)      low nibbles: the first 16 codes, high nibbles: the other 16
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qwartet.kernels.reference.hadamard import hadamard

CacheDtype = torch.dtype | Literal["int8", "int4"]
"""The content of a cache: floats of a dtype, or codes with scales."""

INT4_GROUP = 32  # codes packed together; D of an int4 cache is a multiple of it
_STORED: dict[CacheDtype, torch.dtype] = {"int8": torch.int8, "int4": torch.uint8}
_BITS = {torch.int8: 8, torch.uint8: 4}


@dataclass(frozen=True, eq=False)
class CacheLayer:
    """Keys and values [num_blocks, H_kv, block_size, D]: floats, int8 codes, or bytes [..., D / 2] of two int4 codes.

    Codes have fp32 scales [num_blocks, H_kv, block_size].
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    @property
    def bits(self) -> int | None:
        """Bits of a code, 8 or 4, from the dtype of the tensors; None for floats."""
        return _BITS.get(self.keys.dtype)

    @property
    def block_size(self) -> int:
        return self.keys.shape[2]

    @property
    def head_dim(self) -> int:
        return self.keys.shape[3] * (2 if self.bits == 4 else 1)

    def store(self, key: Tensor, value: Tensor, slot_mapping: Tensor) -> None:
        """Writes key and value [T, H_kv, D] of new tokens at slots [T]."""
        block = torch.div(slot_mapping, self.block_size, rounding_mode="floor")
        offset = slot_mapping % self.block_size
        for new, stored, scales in ((key, self.keys, self.key_scales), (value, self.values, self.value_scales)):
            if scales is None:
                stored[block, :, offset] = new.to(stored.dtype)
            else:
                stored[block, :, offset], scales[block, :, offset] = encode_heads(new, self.bits)

    def gather(self, blocks: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [length, H_kv, D] of a request with these blocks; codes are decoded to fp32."""
        out = []
        for stored, scales in ((self.keys, self.key_scales), (self.values, self.value_scales)):
            heads = stored[blocks] if scales is None else decode_heads(stored[blocks], scales[blocks], self.bits)
            out.append(heads.transpose(1, 2).flatten(0, 1)[:length])
        return out[0], out[1]


def new_layer(
    num_blocks: int,
    num_kv_heads: int,
    block_size: int,
    head_dim: int,
    dtype: CacheDtype,
    zeros: Callable[..., Tensor] = torch.zeros,
) -> CacheLayer:
    """An empty layer; zeros(shape, dtype=...) makes its tensors. int4 needs heads of a multiple of INT4_GROUP."""
    shape = (num_blocks, num_kv_heads, block_size)
    if not isinstance(dtype, str):
        return CacheLayer(*(zeros((*shape, head_dim), dtype=dtype) for _ in range(2)))
    assert dtype == "int8" or head_dim % INT4_GROUP == 0, head_dim
    stored = (*shape, head_dim if dtype == "int8" else head_dim // 2)
    return CacheLayer(
        *(zeros(stored, dtype=_STORED[dtype]) for _ in range(2)), *(zeros(shape, dtype=torch.float32) for _ in range(2))
    )


def head_bytes(head_dim: int, dtype: CacheDtype) -> int:
    """Bytes of one key, or value, of one head; with codes, 4 of them are the scale."""
    if not isinstance(dtype, str):
        return head_dim * dtype.itemsize
    return (head_dim if dtype == "int8" else head_dim // 2) + 4


def encode_heads(x: Tensor, bits: int | None) -> tuple[Tensor, Tensor]:
    """Heads x [..., D] -> their form in a cache of 8 or 4 bits: codes [..., D] or [..., D / 2], scales [...]."""
    codes, scales = quantize_heads(hadamard(x), 127 if bits == 8 else 7)
    return (codes if bits == 8 else pack_nibbles(codes)), scales


def decode_heads(stored: Tensor, scales: Tensor, bits: int | None) -> Tensor:
    """The heads, fp32 [..., D], that codes and scales encode."""
    codes = stored if bits == 8 else unpack_nibbles(stored)
    return hadamard(codes.float() * scales.unsqueeze(-1))


def quantize_heads(x: Tensor, largest_code: int) -> tuple[Tensor, Tensor]:
    """Heads x [..., D] -> int8 codes [..., D] and fp32 scales [...]; a head of zeros gets scale 0."""
    x32 = x.float()
    largest = x32.abs().amax(-1)
    # One rounding, as in the native code.
    inverse = torch.where(largest > 1e-30, torch.full_like(largest, largest_code) / largest, 0.0)
    steps = x32 * inverse.unsqueeze(-1)
    codes = steps.round()
    # In units of the step, whose squares cannot overflow; 0 / 0 in a head of zeros.
    stretch = torch.where(inverse == 0, 1.0, (steps * steps).sum(-1) / (steps * codes).sum(-1))
    return codes.to(torch.int8), largest / largest_code * stretch


def pack_nibbles(codes: Tensor) -> Tensor:
    """int8 codes [..., D] of -7 .. 7 -> uint8 [..., D / 2]."""
    halves: Tensor = (codes + 8).to(torch.uint8).unflatten(-1, (-1, 2, INT4_GROUP // 2))
    first, second = halves.unbind(-2)
    return (first | second << 4).flatten(-2)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """uint8 [..., D / 2] -> int8 codes [..., D]."""
    both = packed.unflatten(-1, (-1, INT4_GROUP // 2))
    return torch.stack([both & 15, both >> 4], dim=-2).flatten(-3).to(torch.int8) - 8
