"""The native operations of quantising against torch and against fp64, at odd sizes, on every instruction set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qwartet.kernels.cpu.backend import CpuBackend
from qwartet.kernels.cpu.gptq_ops import CpuGptqOps, FloatBackend, product_
from qwartet.kernels.gptq_ops import REFERENCE_OPS
from qwartet.quantize.quantizer import SHRINKS, fit_group

SUMS = 2e-6  # of the result's norm: fp32 sums of up to 1,100 products
FACTOR = 1e-5  # of the factor's norm; the condition of these matrices is about 200
SIZES = [(1, 1, 1), (13, 33, 7), (12, 32, 512), (100, 70, 513), (97, 2100, 40), (200, 65, 1100)]  # M, N, K


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def definite(size: int) -> Tensor:
    """A Hessian of correlated inputs."""
    x = random(2 * size + 8, size)
    return x.t() @ x / len(x) + 0.05 * torch.eye(size)


@pytest.fixture
def ops(cpu: CpuBackend) -> CpuGptqOps:
    return CpuGptqOps(cpu.library)


@pytest.mark.parametrize(("M", "N", "K"), SIZES)
def test_a_product_of_any_layout_is_the_exact_one(cpu: CpuBackend, M: int, N: int, K: int) -> None:
    for a in (random(M, K), random(K, M).t(), random(M, 2 * K)[:, ::2]):
        for b in (random(K, N, seed=1), random(N, K, seed=1).t()):
            exact = a.double() @ b.double()
            result = torch.full((M, N), torch.nan)  # the old values are not read
            product_(cpu.library, result, a, b)
            assert relative_error(result, exact) < SUMS
            padded = torch.full((M, N + 5), 3.0)
            product_(cpu.library, padded[:, :N], a, b, scale=-2.0, decay=0.5)
            assert relative_error(padded[:, :N], 1.5 - 2 * exact) < SUMS
            assert (padded[:, N:] == 3).all(), "what is beside the result is not touched"


def test_a_value_depends_neither_on_its_neighbours_nor_on_the_threads(cpu: CpuBackend, threads) -> None:
    a, b = random(150, 700), random(700, 90, seed=1)
    threads(1)
    whole = torch.empty(150, 90)
    product_(cpu.library, whole, a, b)
    for count in (2, 3):
        threads(count)
        for rows, columns in (
            (slice(0, 150), slice(0, 90)),
            (slice(7, 31), slice(5, 6)),
            (slice(99, 150), slice(40, 90)),
        ):
            part = torch.empty(len(a[rows]), b[:, columns].shape[1])
            product_(cpu.library, part, a[rows], b[:, columns])
            assert torch.equal(part, whole[rows, columns])


@pytest.mark.parametrize("size", [1, 5, 40, 200])
def test_the_gram_matrix_is_that_of_torch_above_the_diagonal_and_leaves_the_rest(ops: CpuGptqOps, size: int) -> None:
    x, before = random(300, size), random(size, size, seed=1)
    found, expected = before.clone(), before.clone()
    ops.add_gram_(found, x, decay=0.25, scale=0.1)
    REFERENCE_OPS.add_gram_(expected, x, decay=0.25, scale=0.1)
    torch.testing.assert_close(found.triu(), expected.triu(), rtol=1e-4, atol=1e-4)
    assert torch.equal(found.tril(-1), before.tril(-1))


@pytest.mark.parametrize("size", [1, 5, 127, 128, 129, 300])
def test_the_factor_is_as_exact_as_that_of_torch(ops: CpuGptqOps, size: int) -> None:
    hessian = definite(size)
    exact = hessian.double()
    assert REFERENCE_OPS.inverse_factor_(exact)  # the same in fp64
    for one in (ops, REFERENCE_OPS):
        found = hessian.clone()
        assert one.inverse_factor_(found)
        assert relative_error(found.triu(), exact.triu()) < FACTOR
        assert torch.equal(found.tril(-1), hessian.tril(-1)), "the lower triangle is kept"
        F = found.triu().double()
        assert relative_error(F.t() @ F @ hessian.double(), torch.eye(size).double()) < FACTOR


@pytest.mark.parametrize("bad", [0, 130, 259])
@pytest.mark.parametrize("value", [-1.0, 0.0, torch.nan, torch.inf])
def test_a_matrix_that_is_not_positive_definite_is_found(ops: CpuGptqOps, bad: int, value: float) -> None:
    for one in (ops, REFERENCE_OPS) if value <= 0 else (ops,):
        hessian = definite(260)
        hessian[bad, bad] = value
        before = hessian.clone()
        assert not one.inverse_factor_(hessian)
        assert torch.equal(hessian.tril(-1), before.tril(-1))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize(("rows", "outputs"), [(1, 1), (5, 7), (128, 40), (96, 33)])
def test_rows_are_rounded_to_the_bits_of_torch(ops: CpuGptqOps, bits: int, sym: bool, rows: int, outputs: int) -> None:
    factor = definite(rows + 3)
    REFERENCE_OPS.inverse_factor_(factor)
    block = factor[2 : 2 + rows, 2 : 2 + rows]  # of a larger matrix
    weight = random(rows, outputs, seed=2)
    scale, zero = fit_group(weight, bits=bits, sym=sym)
    results = []
    for one in (ops, REFERENCE_OPS):
        errors, codes = weight.clone(), torch.full((rows, outputs), 77, dtype=torch.uint8)
        one.round_rows_(errors, block, scale, zero, bits, codes)
        results.append((codes, errors))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_values_beyond_the_grid_are_clamped_to_its_ends(ops: CpuGptqOps) -> None:
    weight = torch.tensor([[100.0, -100.0, 0.4, torch.inf]])
    codes = torch.empty(1, 4, dtype=torch.uint8)
    ops.round_rows_(weight, torch.ones(1, 1), torch.ones(4), torch.full((4,), 8.0), 4, codes)
    assert codes.tolist() == [[15, 0, 8, 15]]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sym", [True, False])
def test_the_search_finds_the_scale_of_torch(ops: CpuGptqOps, bits: int, sym: bool) -> None:
    weight = random(96, 50, seed=3)
    weight[5, ::3] *= 4  # outliers that are better clipped
    importance = random(96, seed=4).abs()
    scale, zero = fit_group(weight, bits=bits, sym=sym)
    shrinks = torch.tensor(SHRINKS)
    found = ops.search_scale(weight, importance, shrinks, scale, zero, bits)
    expected = REFERENCE_OPS.search_scale(weight, importance, shrinks, scale, zero, bits)
    # Sums in another order decide between two factors that are equally good.
    assert (found == expected).float().mean() > 0.95

    def error(chosen: Tensor) -> Tensor:
        code = (torch.round(weight / chosen) + zero).clamp(0, (1 << bits) - 1)
        return importance.double() @ (weight - chosen * (code - zero)).double().square()

    torch.testing.assert_close(error(found), error(expected), rtol=1e-4, atol=0)
    assert (error(found) <= error(scale) * (1 + 1e-5)).all()
    if bits == 4:
        assert (error(found) < 0.9 * error(scale)).any()


def test_the_linears_of_the_calibration_are_those_of_torch(cpu: CpuBackend) -> None:
    backend = FloatBackend(cpu.library)
    x, weight, bias = random(3, 10, 70), random(41, 70, seed=1), random(41, seed=2)
    exact = x.double() @ weight.double().t()
    assert relative_error(backend.dense_linear(x, weight, None), exact) < SUMS
    assert relative_error(backend.dense_linear(x, weight, bias), exact + bias.double()) < SUMS
    assert backend.dense_linear(x[:0], weight, bias).shape == (0, 10, 41)


def test_tensors_of_another_kind_never_reach_native_code(ops: CpuGptqOps, cpu: CpuBackend) -> None:
    good = random(8, 8)
    for bad in (good.double(), good.half(), random(8, 9)):
        with pytest.raises(AssertionError):
            ops.inverse_factor_(bad)
        with pytest.raises(AssertionError):
            product_(cpu.library, torch.empty(8, 8), bad, bad)
    with pytest.raises(AssertionError):
        product_(cpu.library, torch.empty(8, 8).t(), good, good)
    with pytest.raises(AssertionError):
        ops.round_rows_(good, good, torch.ones(7), torch.ones(8), 4, torch.empty(8, 8, dtype=torch.uint8))
