"""RMSNorm on rows small enough to check by hand, and its order of rounding."""

from __future__ import annotations

import pytest
import torch

from qwartet.layers.rms_norm import RMSNorm


def test_a_row_is_divided_by_its_root_mean_square_and_multiplied_by_the_weight() -> None:
    norm = RMSNorm(2, eps=0.0)
    norm.weight.data = torch.tensor([1.0, 10.0])
    assert norm(torch.tensor([[3.0, 4.0]]))[0].tolist() == pytest.approx([3 / 12.5**0.5, 40 / 12.5**0.5])


def test_eps_keeps_a_row_of_zeros_finite() -> None:
    assert RMSNorm(4, eps=1e-6)(torch.zeros(1, 4)).tolist() == [[0, 0, 0, 0]]


def test_an_fp32_row_and_a_bf16_weight_give_a_bf16_result_that_was_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    norm, x = RMSNorm(64, eps=1e-6).bfloat16(), torch.randn(8, 64, generator=generator)
    norm.weight.data = torch.randn(64, generator=generator).bfloat16()
    normalised = x.double() / (x.double() * x.double()).mean(-1, keepdim=True).add(1e-6).sqrt()
    found, expected = norm(x), (normalised * norm.weight.double()).bfloat16()
    assert found.dtype == torch.bfloat16
    # fp32 and fp64 round the rare value to either side
    assert (found != expected).float().mean() < 0.01
    rounded_twice = (normalised.bfloat16() * norm.weight).float()
    assert (found.float() - rounded_twice).abs().max() > 0


def test_large_fp16_values_do_not_overflow_in_the_square() -> None:
    assert RMSNorm(4, eps=1e-6).half()(torch.full((1, 4), 60000.0, dtype=torch.float16)).tolist() == [[1, 1, 1, 1]]
