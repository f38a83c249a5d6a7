"""Native rotation and paged attention against the references; the same bits however a prompt is cut into steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qwartet.kernels.backend import REFERENCE
from qwartet.kernels.cpu import backend as cpu_backend
from qwartet.kernels.cpu.structures import norms_structure
from tests.kernels.attention_case import CACHE_DTYPES, TOLERANCE, Case, attention_batch, is_same, new_cache
from tests.kernels.random_weights import random_bf16

HEADS = [(2, 2, 128, 128), (4, 2, 64, 32), (4, 1, 96, 96), (3, 3, 32, 32), (2, 1, 256, 128)]


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


STEPS = [
    [(9,)],
    [(512,), (513,)],
    [(511, 16, 600), (700, 17, 601)],
    [(1099, 20), (1100, 33)],
    [(500, 30), (1100, 31)],
]


@pytest.mark.parametrize("dtype", CACHE_DTYPES.values(), ids=CACHE_DTYPES)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_native_attention_is_the_reference_for_prefill_chunks_and_decode(cpu, heads, steps, dtype) -> None:
    case = Case(*heads, lengths=steps[-1], dtype=dtype)
    found, cache = case.attend(cpu, steps)
    expected, expected_cache = case.attend(REFERENCE, steps)
    assert float((found - expected).float().norm() / expected.float().norm()) < TOLERANCE
    assert is_same(cache, expected_cache)


@pytest.mark.parametrize("dtype", CACHE_DTYPES.values(), ids=CACHE_DTYPES)
@pytest.mark.parametrize("heads", [*HEADS, (7, 1, 64, 64), (10, 2, 128, 128), (16, 1, 32, 32)], ids=str)
def test_norms_of_heads_are_those_of_the_reference(cpu, heads, dtype) -> None:
    case = Case(*heads, lengths=(70, 17), dtype=dtype, has_norms=True)
    steps = [(40, 16), (70, 17)]
    found, cache = case.attend(cpu, steps)
    expected, expected_cache = case.attend(REFERENCE, steps)
    assert float((found - expected).float().norm() / expected.float().norm()) < TOLERANCE
    if dtype == torch.bfloat16:
        torch.testing.assert_close(cache.keys, expected_cache.keys, rtol=2**-7, atol=2**-7)  # one rounding
        assert torch.equal(cache.values, expected_cache.values), "values are not normed"
    without = replace(case, has_norms=False).attend(cpu, steps)[0]
    assert float((found - without).float().norm() / expected.float().norm()) > 0.1


@pytest.mark.parametrize("missing", ["query", "key"])
def test_one_norm_without_the_other_is_refused(cpu, monkeypatch, missing) -> None:
    structure = norms_structure(Case(2, 2, 64, 64, (1,), torch.bfloat16, has_norms=True).norms, 64)
    setattr(structure, missing, None)
    monkeypatch.setattr(cpu_backend, "norms_structure", lambda *_: structure)
    cache, zero = new_cache(4, 2, 64, torch.bfloat16), ints(0)
    batch = attention_batch(zero.unsqueeze(0), [1], [0, 1], zero, zero)
    with pytest.raises(AssertionError, match="sizes or indices are inconsistent"):
        cpu.rotate_and_store(random_bf16(1, 6 * 64), 2, torch.ones(64, 32), torch.zeros(64, 32), batch, cache)


@pytest.mark.parametrize("dtype", CACHE_DTYPES.values(), ids=CACHE_DTYPES)
def test_a_token_has_the_same_bits_however_its_prompt_is_cut_and_with_every_number_of_threads(
    cpu, threads, dtype
) -> None:
    case = Case(4, 2, 64, 64, lengths=(1100, 40), dtype=dtype)
    whole = case.attend(cpu, [(1100, 40)])[0]
    last_of_each = whole[[1099, 1139]]
    for num_threads in (1, 2, 7):  # with 7 the decode step is split over the keys
        threads(num_threads)
        for steps in ([(1099, 39), (1100, 40)], [(13, 1), (530, 2), (1099, 39), (1100, 40)]):
            assert torch.equal(case.attend(cpu, steps)[0], last_of_each), (num_threads, steps)
        assert torch.equal(case.attend(cpu, [(1100, 40)])[0], whole)


@pytest.mark.parametrize("dtype", CACHE_DTYPES.values(), ids=CACHE_DTYPES)
def test_a_nan_reaches_its_own_request_and_no_other(cpu, dtype) -> None:
    cache = new_cache(4, 2, 64, dtype)
    table = torch.tensor([[0, 1], [2, 3]], dtype=torch.int32)
    cos, sin = torch.ones(64, 32), torch.zeros(64, 32)
    qkv = random_bf16(40, 6 * 64)
    qkv[3, 5 * 64] = torch.nan  # a value of the first request's fourth token
    index = torch.cat([torch.arange(20), torch.arange(20)]).int()
    slots = table.flatten().repeat_interleave(16).view(2, 32)[:, :20].flatten() * 16 + index % 16
    batch = attention_batch(table, [20, 20], [0, 20, 20], index, slots)
    out = cpu.paged_attention(cpu.rotate_and_store(qkv, 2, cos, sin, batch, cache), cache, batch)
    assert out[20:].isfinite().all() and out[:20, 0].isfinite().all()
    assert not out[3:20, 1, 0].isfinite().any()


@pytest.mark.parametrize(
    ("name", "value"),
    [("block", 99), ("block", -1), ("length", 65), ("slot", 64), ("slot", -1), ("row", 64), ("row", -1)],
)
def test_an_index_outside_its_table_is_refused_before_anything_is_read(cpu, name, value) -> None:
    cache = new_cache(4, 2, 64, torch.bfloat16)
    batch = attention_batch(ints(0, 1, 2, 3).unsqueeze(0), [33], [0, 1], ints(32), ints(32))
    wrong = {"block": batch.block_table[0, 1:2], "length": batch.seq_lens, "slot": batch.slot_mapping}
    wrong["row"] = batch.rope_index
    wrong[name].fill_(value)
    tables = torch.ones(64, 32), torch.zeros(64, 32)
    with pytest.raises(AssertionError, match="sizes or indices are inconsistent"):
        query = cpu.rotate_and_store(random_bf16(1, 6 * 64), 2, *tables, batch, cache)
        cpu.paged_attention(query, cache, batch)
