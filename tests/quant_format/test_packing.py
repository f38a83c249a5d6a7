"""Packed integers: the bit layout on literals, round trips on odd shapes, the stored zero of each format version."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwartet.quant_format.packing import (
    detect_zero_format,
    pack_qweight,
    pack_qzeros,
    unpack_qweight,
    unpack_qzeros,
)


def as_hex(words: torch.Tensor) -> list[str]:
    return [f"{word & 0xFFFFFFFF:08X}" for word in words.flatten().tolist()]


def random_codes(rows: int, columns: int, bits: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, (rows, columns), generator=generator, dtype=torch.uint8)


def test_eight_inputs_of_an_output_share_a_word_of_qweight_low_bits_first() -> None:
    codes = torch.tensor([[1, 15], [2, 0], [3, 0], [4, 0], [5, 0], [6, 0], [7, 0], [8, 15]], dtype=torch.uint8)
    assert as_hex(pack_qweight(codes, 4)) == ["87654321", "F000000F"]


def test_four_inputs_of_an_output_share_a_word_of_qweight_at_8_bits() -> None:
    codes = torch.tensor([[0x11], [0x22], [0x33], [0xFF]], dtype=torch.uint8)
    assert as_hex(pack_qweight(codes, 8)) == ["FF332211"]


def test_qzeros_packs_along_the_outputs() -> None:
    zeros = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [8, 8, 8, 8, 8, 8, 8, 8]], dtype=torch.uint8)
    assert as_hex(pack_qzeros(zeros, 4, "v2")) == ["87654321", "88888888"]


def test_version_1_stores_every_zero_one_too_low() -> None:
    zeros = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]], dtype=torch.uint8)
    assert as_hex(pack_qzeros(zeros, 4, "v1")) == ["76543210"]


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_0_wraps_in_version_1_and_comes_back(bits: int) -> None:
    zeros = torch.zeros(1, 32 // bits, dtype=torch.uint8)
    words = pack_qzeros(zeros, bits, "v1")
    assert as_hex(words) == ["FFFFFFFF"]
    assert unpack_qzeros(words, bits, "v1").tolist() == zeros.tolist()


@pytest.mark.parametrize(
    ("bits", "zero_format", "word"),
    [(4, "v1", "77777777"), (4, "v2", "88888888"), (8, "v1", "7F7F7F7F"), (8, "v2", "80808080")],
)
def test_symmetric_zeros_are_the_published_words_and_tell_the_version(bits: int, zero_format: str, word: str) -> None:
    zeros = torch.full((3, 64), 1 << (bits - 1), dtype=torch.uint8)
    qzeros = pack_qzeros(zeros, bits, zero_format)
    assert set(as_hex(qzeros)) == {word}
    assert detect_zero_format(qzeros, bits) == zero_format


def test_one_odd_zero_leaves_the_version_undecided() -> None:
    qzeros = torch.full((2, 4), 0x77777777, dtype=torch.int32)
    qzeros[1, 3] = 0x77777877
    assert detect_zero_format(qzeros, 4) is None


@given(
    st.sampled_from([4, 8]), st.integers(1, 9), st.integers(1, 17), st.sampled_from(["v1", "v2"]), st.integers(0, 999)
)
def test_packing_round_trips(bits: int, num_words: int, other: int, zero_format: str, seed: int) -> None:
    packed_size = num_words * 32 // bits
    codes = random_codes(packed_size, other, bits, seed)
    assert torch.equal(unpack_qweight(pack_qweight(codes, bits), bits), codes)
    zeros = random_codes(other, packed_size, bits, seed)
    assert torch.equal(unpack_qzeros(pack_qzeros(zeros, bits, zero_format), bits, zero_format), zeros)


@given(st.sampled_from([4, 8]), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=6))
def test_any_word_survives_unpacking_and_packing(bits: int, words: list[int]) -> None:
    qweight = torch.tensor([words], dtype=torch.int32)
    assert torch.equal(pack_qweight(unpack_qweight(qweight, bits), bits), qweight)


def test_a_strided_slice_unpacks_like_its_copy() -> None:
    qweight = torch.arange(-50, 50, dtype=torch.int32).reshape(10, 10) * 40_000_003
    slice_of_it = qweight[::2, 1:9:3]
    assert torch.equal(unpack_qweight(slice_of_it, 4), unpack_qweight(slice_of_it.contiguous(), 4))
