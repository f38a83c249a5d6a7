"""The Hessian accumulator: 2/n times the sum of outer products, however the tokens are cut into batches."""

from __future__ import annotations

import pytest
import torch

from qwartet.quantize.hessian import HessianAccumulator

INPUTS = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))


def accumulate(*batches: torch.Tensor) -> HessianAccumulator:
    accumulator = HessianAccumulator(8)
    for batch in batches:
        accumulator.add(batch)
    return accumulator


def test_one_token_gives_twice_its_outer_product() -> None:
    accumulator = HessianAccumulator(2)
    accumulator.add(torch.tensor([3.0, -1.0]))
    assert accumulator.hessian.tolist() == [[18.0, -6.0], [-6.0, 2.0]]


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [1, 59], [7, 0, 53]])
def test_the_cut_into_batches_does_not_matter(sizes: list[int]) -> None:
    accumulator = accumulate(*INPUTS.split(sizes))
    assert accumulator.num_tokens == 60
    exact = 2 / 60 * INPUTS.double().t() @ INPUTS.double()
    # fp32 sums of 60 products of size 1
    assert torch.allclose(accumulator.hessian.double(), exact, atol=1e-5)


def test_leading_dimensions_are_all_tokens() -> None:
    assert torch.equal(accumulate(INPUTS.view(3, 4, 5, 8)).hessian, accumulate(INPUTS).hessian)


def test_half_precision_inputs_are_summed_in_fp32() -> None:
    large = torch.full((4096, 8), 100.0, dtype=torch.float16)
    assert accumulate(large, large).hessian.tolist() == [[20000.0] * 8] * 8


def test_no_gradient_is_recorded() -> None:
    assert not accumulate(INPUTS.clone().requires_grad_()).hessian.requires_grad
