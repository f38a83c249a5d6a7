"""How AWQ files ("gemm") pack 4-bit integers, and the same integers as GPTQ packs them: exact, without a float.

qweight [K, N / 8] and qzeros [G, N / 8] pack along the outputs, both in this order:

    bits    31       27       23       19       15       11       7        3       0
            | q[8c+7] | q[8c+5] | q[8c+3] | q[8c+1] | q[8c+6] | q[8c+4] | q[8c+2] | q[8c] |      word c of a row

Zeros are stored as they are, which is version 2 of GPTQ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwartet.quant_format.awq_config import LANES

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Of the outputs of a word, low bits first."""
TILE_WORDS = 1 << 16  # repacked at a time: 256 KB, which stay in the cache of a core

# Halves, quarters and eighths of a word change places: (words apart, bits apart, the lower ones of these bits).
_SWAPS = ((4, 16, 0x0000_FFFF), (2, 8, 0x00FF_00FF), (1, 4, 0x0F0F_0F0F))


def gptq_qweight(qweight: Tensor) -> Tensor:
    """qweight int32 [K, N / 8] of AWQ as that of GPTQ, [K / 8, N]; K is a multiple of 8.

    Eight words of a column are a matrix of 8 inputs x 8 outputs, which is transposed in three swaps.
    """
    num_inputs, num_words = qweight.shape
    packed = torch.empty(num_inputs // LANES, num_words, LANES, dtype=torch.int32, device=qweight.device)
    num_rows = max(TILE_WORDS // (LANES * num_words), 1)
    for start in range(0, len(packed), num_rows):
        tile = qweight[LANES * start : LANES * (start + num_rows)].reshape(-1, LANES, num_words).clone()
        for apart, shift, low in _SWAPS:
            pairs = tile.view(len(tile), -1, 2, apart, num_words)
            first, second = pairs[:, :, 0], pairs[:, :, 1]
            differing = (first >> shift).bitwise_xor_(second).bitwise_and_(low)
            second ^= differing
            first ^= differing << shift
        for lane, output in enumerate(ORDER):
            packed[start : start + num_rows, :, output] = tile[:, lane]
    return packed.view(num_inputs // LANES, num_words * LANES)


def gptq_qzeros(qzeros: Tensor) -> Tensor:
    """qzeros int32 [G, N / 8] of AWQ as version 2 of GPTQ packs them."""
    packed = torch.zeros_like(qzeros)
    for lane, output in enumerate(ORDER):
        packed |= (qzeros >> 4 * lane).bitwise_and_(15) << 4 * output
    return packed
