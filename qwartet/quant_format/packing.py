"""How GPTQ files pack small integers into int32 words, and the zero that version 1 stores one too low.

qweight packs along the input: word r of a column holds the codes of 32/bits consecutive inputs, low bits first.

    bits 4   31       27      ...    7        3       0
             | q[8r+7] | q[8r+6] | ... | q[8r+1] | q[8r] |

qzeros packs along the output in the same way. What it holds depends on the version of the format:

    v1 ("gptq")      zero - 1, modulo 2**bits     symmetric 4 bits: zero 8 is stored as 7, a word is 0x77777777
    v2 ("gptq_v2")   zero                         symmetric 4 bits: zero 8 is stored as 8, a word is 0x88888888

No other file needs to know the difference.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ZeroFormat = Literal["v1", "v2"]


def pack_qweight(codes: Tensor, bits: int) -> Tensor:
    """Packs codes uint8 [K, N] into qweight int32 [K * bits / 32, N]."""
    return _pack(codes, bits, dim=0)


def unpack_qweight(qweight: Tensor, bits: int) -> Tensor:
    """Unpacks qweight int32 [K * bits / 32, N] into codes uint8 [K, N]."""
    return _unpack(qweight, bits, dim=0)


def pack_qzeros(zeros: Tensor, bits: int, zero_format: ZeroFormat) -> Tensor:
    """Packs zeros uint8 [G, N] into qzeros int32 [G, N * bits / 32]."""
    # uint8 arithmetic wraps, so zero 0 becomes 255 and the mask makes it the 2**bits - 1 that v1 files hold.
    stored = (zeros - 1) & _mask(bits) if zero_format == "v1" else zeros
    return _pack(stored, bits, dim=1)


def unpack_qzeros(qzeros: Tensor, bits: int, zero_format: ZeroFormat) -> Tensor:
    """Unpacks qzeros int32 [G, N * bits / 32] into zeros uint8 [G, N]."""
    stored = _unpack(qzeros, bits, dim=1)
    return (stored + 1) & _mask(bits) if zero_format == "v1" else stored


def detect_zero_format(qzeros: Tensor, bits: int) -> ZeroFormat | None:
    """Says which version wrote the qzeros of a symmetric weight; None when its zeros are not all the midpoint."""
    midpoint = torch.full((1, 32 // bits), 1 << (bits - 1), dtype=torch.uint8)
    formats: tuple[ZeroFormat, ...] = ("v1", "v2")
    for zero_format in formats:
        word = pack_qzeros(midpoint, bits, zero_format).item()
        if bool((qzeros == word).all()):
            return zero_format
    return None


def _pack(codes: Tensor, bits: int, dim: int) -> Tensor:
    num_lanes = 32 // bits
    assert codes.dtype == torch.uint8 and codes.shape[dim] % num_lanes == 0, (codes.dtype, codes.shape, bits)
    words = torch.zeros_like(_lane(codes, 0, num_lanes, dim), dtype=torch.int32)
    for lane in range(num_lanes):
        words |= _lane(codes, lane, num_lanes, dim).to(torch.int32) << (bits * lane)
    return words


def _unpack(words: Tensor, bits: int, dim: int) -> Tensor:
    num_lanes = 32 // bits
    shape = list(words.shape)
    shape[dim] *= num_lanes
    codes = torch.empty(shape, dtype=torch.uint8, device=words.device)
    for lane in range(num_lanes):
        shifted = words >> (bits * lane)  # copies the sign bit in from the left; the mask removes it
        _lane(codes, lane, num_lanes, dim).copy_(shifted.bitwise_and_(_mask(bits)))
    return codes


def _lane(codes: Tensor, lane: int, num_lanes: int, dim: int) -> Tensor:
    """The codes that sit in one position of their words: a view."""
    return codes[lane::num_lanes] if dim == 0 else codes[:, lane::num_lanes]


def _mask(bits: int) -> int:
    return (1 << bits) - 1
