"""The paged cache: what is written at a slot is found in its block, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from qwartet.errors import SettingError
from qwartet.layers.kv_cache import KVCache, choose_cache_dtype, kv_bytes_per_token


def small_cache() -> KVCache:
    return KVCache(num_layers=2, num_blocks=5, num_kv_heads=3, block_size=4, head_dim=6, dtype=torch.float32)


def test_a_token_goes_to_the_block_and_offset_of_its_slot() -> None:
    cache = small_cache()
    key, value = torch.randn(2, 3, 3, 6, generator=torch.Generator().manual_seed(0))
    cache.layers[1].store(key, value, torch.tensor([2, 7, 19]))
    for token, (block, offset) in enumerate([(0, 2), (1, 3), (4, 3)]):
        assert torch.equal(cache.layers[1].keys[block, :, offset], key[token])
        assert torch.equal(cache.layers[1].values[block, :, offset], value[token])


def test_writing_touches_no_other_slot_and_no_other_layer() -> None:
    cache = small_cache()
    ones = torch.ones(1, 3, 6)
    cache.layers[1].store(ones, ones, torch.tensor([7]))
    for untouched, stored in zip(
        (cache.layers[0].keys, cache.layers[0].values), (cache.layers[1].keys, cache.layers[1].values), strict=True
    ):
        assert untouched.count_nonzero() == 0
        assert stored.sum() == ones.sum() == stored[1, :, 3].sum()


def test_writing_a_slot_again_replaces_what_was_there() -> None:
    cache = small_cache()
    for number in (1.0, 2.0):
        cache.layers[0].store(torch.full((1, 3, 6), number), torch.full((1, 3, 6), -number), torch.tensor([8]))
    assert cache.layers[0].keys[2, :, 0].unique().tolist() == [2]
    assert cache.layers[0].values[2, :, 0].unique().tolist() == [-2]


def test_a_new_cache_is_zero_and_of_the_asked_dtype() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        cache = KVCache(num_layers=1, num_blocks=2, num_kv_heads=1, block_size=4, head_dim=8, dtype=dtype)
        assert cache.layers[0].keys.dtype == cache.layers[0].values.dtype == dtype
        assert cache.layers[0].keys.shape == (2, 1, 4, 8)
        assert not cache.layers[0].keys.any() and not cache.layers[0].values.any()


def test_a_cache_takes_memory_only_where_it_was_written() -> None:
    code = """
import re, torch
from qwartet.layers.kv_cache import KVCache

def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

before = peak_kib()
cache = KVCache(num_layers=2, num_blocks=1024, num_kv_heads=8, block_size=16, head_dim=128, dtype=torch.bfloat16)
print(peak_kib() - before, sum(t.nbytes for i in (0, 1) for t in (cache.layers[i].keys, cache.layers[i].values)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    grown_kib, nbytes = map(int, result.stdout.split())
    assert nbytes == 128 * 2**20
    assert grown_kib < nbytes / 1024 / 4


@pytest.mark.parametrize(
    ("dtype", "num_bytes"), [(torch.float16, 2_621_440), ("int8", 1_351_680), ("int4", 696_320)], ids=str
)
def test_a_token_of_the_72b_model_takes_so_many_bytes(dtype, num_bytes: int) -> None:
    assert kv_bytes_per_token(80, 64, 128, dtype) == num_bytes
    cache = KVCache(num_layers=1, num_blocks=2, num_kv_heads=64, block_size=16, head_dim=128, dtype=dtype)
    tensors = [tensor for tensor in vars(cache.layers[0]).values() if tensor is not None]
    assert sum(tensor.nbytes for tensor in tensors) * 80 == 2 * 16 * num_bytes


def test_int4_says_which_heads_it_takes() -> None:
    with pytest.raises(SettingError, match="heads of a multiple of 32 values, but these have 80"):
        KVCache(num_layers=1, num_blocks=2, num_kv_heads=1, block_size=4, head_dim=80, dtype="int4")


def test_what_a_user_asks_for_is_a_dtype_and_auto_the_models_own() -> None:
    assert [choose_cache_dtype(name, torch.float16) for name in ("auto", "int8", "int4")] == [
        torch.float16,
        "int8",
        "int4",
    ]
    with pytest.raises(SettingError, match="'fp8'; it must be one of auto, int8, int4"):
        choose_cache_dtype("fp8", torch.float16)
