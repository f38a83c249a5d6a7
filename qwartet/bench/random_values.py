"""Gigabytes of random weights in seconds: random bits as they are, or as indices into a table of 65,536 values.

    weight of 16 bits      table[random 16 bits]           the table holds equally likely values of a distribution
    packed 4-bit codes     random 32 bits, slightly biased so that the mean of the codes is 8, the zero point

Everything comes in slices of at most SLICE_BYTES, so that memory stays bounded whatever the tensor's size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SLICE_BYTES = 8 * 2**20
TABLE_SIZE = 2**16

# Deviations of random weights. A linear has 1 / sqrt(in_features), so that all activations stay of order 1.
EMBEDDING_STD = 1.0
BIAS_STD = 0.1
LOGITS_STD = 2.0  # lm_head has this / sqrt(hidden_size)
SCALE_SPREAD = 0.25  # quantisation scales are within this fraction of their mean

Words = NDArray[np.uint64]
Bits16 = NDArray[np.uint16]
"""Values of 16 bits, fp16 or bf16, as their bit patterns."""


class RandomStream:
    """Random bits that depend only on the seed and a name, so a tensor does not depend on the others."""

    def __init__(self, seed: int, name: str) -> None:
        digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        self._bits = np.random.SFC64([seed, digest])

    def words(self, count: int) -> Words:
        """`count` random uint64."""
        return self._bits.random_raw(count)

    def codes(self, num_bytes: int, bits: int) -> NDArray[np.uint8]:
        """`num_bytes` of packed codes whose mean is 2**(bits - 1) (4 bits) or half a step below it (8 bits).

        Uniform 4-bit codes have mean 7.5. Half a step is a tenth of their deviation, and over thousands of inputs that
        adds up: all outputs of a linear would shift together, more with every layer.
        """
        words = self.words(-(-num_bytes // 8))
        if bits == 4:
            # A bit of the code beside it sets bit 1 of each code in 3 of 4 cases: 8/2 + 4/2 + 2 * 3/4 + 1/2 = 8.
            turned = (words >> np.uint64(5)) | (words << np.uint64(59))
            words |= turned & np.uint64(0x2222_2222_2222_2222)
        return words.view(np.uint8)[:num_bytes]

    def choose(self, table: Bits16, count: int) -> Bits16:
        """`count` values of a table of TABLE_SIZE, each as likely as the others."""
        return table[self.words(-(-count // 4)).view(np.uint16)[:count]]

    def permutation(self, count: int) -> NDArray[np.int64]:
        """0 .. count - 1 in random order."""
        return np.random.Generator(self._bits).permutation(count)


CODE_DEVIATION = {4: 21**0.5, 8: ((256**2 - 1) / 12 + 0.25) ** 0.5}
"""Root mean square of (code - zero) in what RandomStream.codes gives."""


def normal_table(std: float, dtype: Literal["F16", "BF16"]) -> Bits16:
    """The normal distribution around 0 as a table: its quantiles at (i + 1/2) / TABLE_SIZE."""
    return to_bits(std * _normal_quantiles(), dtype)


def scale_table(mean: float) -> Bits16:
    """Quantisation scales around a mean, in fp16, spread evenly over SCALE_SPREAD to both sides."""
    return to_bits(np.linspace(mean * (1 - SCALE_SPREAD), mean * (1 + SCALE_SPREAD), TABLE_SIZE), "F16")


def zeros_table() -> Bits16:
    """Four zeros of 7, 8 or 9 in each value; their mean is 8."""
    index = np.arange(TABLE_SIZE)
    return (0x7777 + (index & 0x1111) + (index >> 1 & 0x1111)).astype(np.uint16)


def to_bits(values: NDArray[Any], dtype: Literal["F16", "BF16"]) -> Bits16:
    """Finite values rounded to 16 bits, to nearest and then to even, as bit patterns."""
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@cache
def _normal_quantiles() -> NDArray[np.float64]:
    inverse = NormalDist().inv_cdf
    return np.array([inverse((index + 0.5) / TABLE_SIZE) for index in range(TABLE_SIZE)])


def slices(total: int, most: int) -> Iterator[int]:
    """Sizes of the pieces, each at most `most`, that `total` is cut into."""
    for start in range(0, total, most):
        yield min(most, total - start)
