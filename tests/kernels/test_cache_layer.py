"""How a head is written into a cache of codes and read again: transform, layout, error, and what has no scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qwartet.kernels.backend import REFERENCE
from qwartet.kernels.cache_layer import pack_nibbles, unpack_nibbles
from qwartet.kernels.cpu import backend as cpu_backend
from qwartet.kernels.cpu.structures import cache_structure
from qwartet.kernels.reference.hadamard import hadamard
from tests.kernels.attention_case import CACHE_DTYPES, attention_batch, is_same, new_cache
from tests.kernels.random_weights import random_bf16

HEAD_DIMS = {
    32: 32,
    64: 64,
    96: 32,
    128: 128,
    160: 32,
    192: 64,
    256: 256,
}  # D -> channels that are transformed together


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the transform


@pytest.mark.parametrize(("head_dim", "size"), HEAD_DIMS.items(), ids=str)
def test_the_transform_is_the_matrix_of_sylvester_in_every_block(head_dim: int, size: int) -> None:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    x = randn(3, head_dim)
    expected = (x.double().unflatten(-1, (-1, size)) @ matrix / math.sqrt(size)).flatten(-2)
    torch.testing.assert_close(hadamard(x).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_the_transform_is_its_own_inverse_and_keeps_products(head_dim: int) -> None:
    q, k = randn(2, 5, head_dim)
    torch.testing.assert_close(hadamard(hadamard(k)), k, rtol=0, atol=1e-5)
    torch.testing.assert_close((hadamard(q) * hadamard(k)).sum(-1), (q * k).sum(-1), rtol=0, atol=1e-4)


def test_one_outlier_is_shared_out_among_all_channels() -> None:
    head = torch.zeros(128)
    head[5] = 100.0
    assert torch.allclose(hadamard(head).abs(), torch.tensor(100 / math.sqrt(128)))


# --- the layout


def test_of_every_32_codes_the_first_16_are_low_nibbles_and_the_others_high() -> None:
    codes = torch.zeros(64, dtype=torch.int8)
    codes[0], codes[16], codes[15], codes[32], codes[63] = -7, 7, 3, 1, -1
    packed = pack_nibbles(codes)
    assert packed.dtype == torch.uint8 and packed.shape == (32,)
    assert [hex(byte) for byte in packed[[0, 15, 16, 31, 1]].tolist()] == ["0xf1", "0x8b", "0x89", "0x78", "0x88"]
    assert torch.equal(unpack_nibbles(packed), codes)


# --- store and gather


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize(("dtype", "largest_code"), [("int8", 127), ("int4", 7)])
def test_what_is_read_is_off_by_about_half_a_step_and_never_along_the_head(dtype, largest_code, head_dim) -> None:
    cache = new_cache(2, 3, head_dim, dtype)
    heads = randn(2, 20, 3, head_dim) * 10.0 ** randn(20, 3, 1, seed=1)
    cache.store(*heads, torch.arange(5, 25))
    table = torch.tensor([0, 1])
    for x, found in zip(heads, cache.gather(table, 25), strict=True):
        before, after = hadamard(x), hadamard(found[5:])
        step = before.abs().amax(-1, keepdim=True) / largest_code
        assert ((before - after).abs() <= 0.5 * step + 0.05 * before.abs()).all(), "half a step, and the head's stretch"
        size = before.double().square().sum(-1)
        assert torch.allclose((before * after).double().sum(-1), size, rtol=1e-5), "no error along the head"
        assert not found[:5].any(), "slots that were never written are zeros"


def test_an_outlier_leaves_more_of_the_other_channels_to_int4_than_its_step_alone_would() -> None:
    heads = randn(2, 50, 1, 128)
    heads[..., 7] *= 30
    cache = new_cache(4, 1, 128, "int4")
    cache.store(*heads, torch.arange(50))
    found = cache.gather(torch.arange(4), 50)[0]
    others = torch.arange(128) != 7
    assert (found - heads[0])[..., others].norm() < 0.5 * heads[0][..., others].norm()


NEAR = 0.2  # of a head's norm: a step of max / 7 where max is 3 times the usual value, over the root of 12, is 0.12
SPECIAL = {
    "zeros": torch.zeros(64),
    "a constant": torch.full((64,), 3.0),
    "one value": torch.eye(64)[9],
    "huge values": randn(64) * 1e36,
    "tiny values": randn(64) * 1e-36,
}


@pytest.mark.parametrize("x", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_every_finite_head_comes_back_finite_and_near(dtype: str, x: Tensor) -> None:
    cache = new_cache(1, 1, 64, dtype)
    cache.store(x.view(1, 1, 64), -x.view(1, 1, 64), torch.tensor([3]))
    for sign, found in zip((1, -1), cache.gather(torch.tensor([0]), 4), strict=True):
        assert found.isfinite().all()
        assert (sign * found[3, 0].double() - x.double()).norm() <= NEAR * x.double().norm() + 1e-30


@pytest.mark.parametrize("x", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("dtype", CACHE_DTYPES.values(), ids=CACHE_DTYPES)
def test_natively_every_finite_head_is_stored_alike_and_attended_to_without_nan(cpu, dtype, x: Tensor) -> None:
    heads = x.clamp(-1e18, 1e18).bfloat16()  # the product of a query and a key is finite, too
    qkv = heads.expand(20, 3, 64).flatten(1).contiguous()
    table, index = torch.tensor([[1, 0]], dtype=torch.int32), torch.arange(20, dtype=torch.int32)
    slots = table[0, index // 16] * 16 + index % 16
    batch, caches = attention_batch(table, [20], [0, 20], index, slots), []
    for backend in (cpu, REFERENCE):
        caches.append(new_cache(2, 1, 64, dtype))
        tables = torch.ones(64, 32), torch.zeros(64, 32)
        query = backend.rotate_and_store(qkv.clone(), 1, *tables, batch, caches[-1])
        out = backend.paged_attention(query, caches[-1], batch)
        assert out.isfinite().all()
        assert ((out - heads).double().norm(dim=-1) <= NEAR * heads.double().norm() + 1e-30).all()
    assert is_same(*caches)


@pytest.mark.parametrize("bits", [0, 5, 32])
def test_a_kind_of_cache_that_there_is_not_is_refused(cpu, monkeypatch, bits: int) -> None:
    structure = cache_structure(cache := new_cache(4, 2, 64, "int8"))
    structure.bits = bits
    monkeypatch.setattr(cpu_backend, "cache_structure", lambda _cache: structure)
    zero, tables = torch.tensor([0]), (torch.ones(64, 32), torch.zeros(64, 32))
    batch = attention_batch(zero.unsqueeze(0), [1], [0, 1], zero, zero)
    with pytest.raises(AssertionError, match="sizes or indices are inconsistent"):
        cpu.rotate_and_store(random_bf16(1, 6 * 64), 2, *tables, batch, cache)
