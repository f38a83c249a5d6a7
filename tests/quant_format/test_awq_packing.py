"""AWQ's words become those of GPTQ: on literals, on random words of odd shapes, for every zero, and in tiles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwartet.quant_format import awq_packing
from qwartet.quant_format.awq_config import AwqConfig
from qwartet.quant_format.awq_packing import gptq_qweight, gptq_qzeros
from qwartet.quant_format.packing import pack_qweight, pack_qzeros
from qwartet.quant_format.weight import QuantizedWeight
from tests.quant_format import awq_reference
from tests.quant_format.test_packing import as_hex, random_codes

WORDS = st.integers(-(2**31), 2**31 - 1)


def random_tensors(num_inputs: int, num_outputs: int, group_size: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """An AWQ linear as a file has it."""
    num_groups = num_inputs // group_size
    scales = torch.rand(num_groups, num_outputs, generator=torch.Generator().manual_seed(seed)) * 0.1 + 0.01
    return {
        "qweight": awq_reference.pack(random_codes(num_inputs, num_outputs, 4, seed)),
        "qzeros": awq_reference.pack(random_codes(num_groups, num_outputs, 4, seed + 1)),
        "scales": scales.half(),
    }


def read(tensors: dict[str, torch.Tensor], group_size: int) -> QuantizedWeight:
    return QuantizedWeight.from_tensors(tensors, AwqConfig.of(group_size), name="linear", path="model.safetensors")


def test_even_outputs_are_in_the_low_half_of_a_word_and_odd_ones_in_the_high_half() -> None:
    integers = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]], dtype=torch.uint8)
    assert as_hex(awq_reference.pack(integers)) == ["75316420"]
    assert torch.equal(gptq_qzeros(awq_reference.pack(integers)), pack_qzeros(integers, 4, "v2"))


def test_eight_rows_of_a_word_become_eight_words_of_a_row() -> None:
    codes = torch.zeros(8, 8, dtype=torch.uint8)
    codes[3] = torch.arange(8)  # input 3 of the outputs
    packed = gptq_qweight(awq_reference.pack(codes))
    assert as_hex(packed) == [f"{output << 12:08X}" for output in range(8)]


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 999), st.sampled_from([1, 100, 1 << 16]))
def test_codes_are_those_of_the_reference_in_tiles_of_any_size(rows: int, words: int, seed: int, tile: int) -> None:
    codes = random_codes(8 * rows, 8 * words, 4, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(awq_packing, "TILE_WORDS", tile)
        assert torch.equal(gptq_qweight(awq_reference.pack(codes)), pack_qweight(codes, 4))


@given(st.lists(st.lists(WORDS, min_size=2, max_size=2), min_size=8, max_size=8))
def test_any_words_are_read_as_the_reference_reads_them(rows: list[list[int]]) -> None:
    words = torch.tensor(rows, dtype=torch.int32)
    kept = words.clone()
    assert torch.equal(gptq_qweight(words), pack_qweight(awq_reference.unpack(words), 4))
    assert torch.equal(gptq_qzeros(words), pack_qzeros(awq_reference.unpack(words), 4, "v2"))
    assert torch.equal(words, kept)  # a file's tensors are mapped and must not be written


def test_a_strided_slice_is_packed_like_its_copy() -> None:
    words = awq_reference.pack(random_codes(32, 64, 4, 0))[::2, 1:7:2]
    assert torch.equal(gptq_qweight(words), gptq_qweight(words.contiguous()))


def test_the_reference_packs_what_it_unpacks() -> None:
    integers = random_codes(16, 40, 4, 5)
    assert torch.equal(awq_reference.unpack(awq_reference.pack(integers)), integers)


@pytest.mark.parametrize(("num_inputs", "num_outputs", "group_size"), [(128, 64, 128), (256, 96, 32), (48, 8, 16)])
def test_weights_have_the_reference_s_values_exactly(num_inputs: int, num_outputs: int, group_size: int) -> None:
    tensors = random_tensors(num_inputs, num_outputs, group_size)
    weight = read(tensors, group_size)
    assert (weight.in_features, weight.out_features, weight.group_size) == (num_inputs, num_outputs, group_size)
    assert torch.equal(weight.dequantize().double(), awq_reference.dequantize(tensors, group_size).t())
    assert weight.scales is tensors["scales"] and weight.g_idx is None and weight.bias is None


def test_every_zero_from_0_to_15_is_kept() -> None:
    tensors = random_tensors(32, 16, 32)
    zeros = torch.arange(16, dtype=torch.uint8)[None]
    weight = read({**tensors, "qzeros": awq_reference.pack(zeros)}, 32)
    assert weight.zeros().tolist() == zeros.tolist()
    codes = awq_reference.unpack(tensors["qweight"]).float()
    assert torch.equal(weight.dequantize(), ((codes - zeros.float()) * tensors["scales"].float()).t())
