"""The quantiser of a group: literals of every rule and quirk, and bounds on any weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwartet.quantize.quantizer import dequantize, fit_group, quantize


def one_group(weights: list[float], bits: int = 4, sym: bool = True) -> tuple[float, float, list[float]]:
    group = torch.tensor(weights)[:, None]
    scale, zero = fit_group(group, bits=bits, sym=sym)
    return scale.item(), zero.item(), quantize(group, scale, zero, bits=bits).flatten().tolist()


def test_a_symmetric_range_reaches_as_far_down_as_up() -> None:
    assert one_group([-1.0, 7.5, 3.0]) == (1.0, 8.0, [7.0, 15.0, 11.0])


def test_an_asymmetric_range_ends_at_the_extremes() -> None:
    assert one_group([-5.0, 10.0, 0.0, 2.0], sym=False) == (1.0, 5.0, [0.0, 15.0, 5.0, 7.0])


def test_an_asymmetric_range_holds_zero() -> None:
    assert one_group([15.0, 14.0], sym=False) == (1.0, 0.0, [15.0, 14.0])


def test_a_symmetric_group_without_a_negative_weight_clips_above_7_fifteenths() -> None:
    scale, zero, codes = one_group([15.0, 8.0, 7.0, 0.0])
    assert (scale, zero, codes) == (1.0, 8.0, [15.0, 15.0, 15.0, 8.0])


@pytest.mark.parametrize(("sym", "zero"), [(True, 8.0), (False, 7.0)])
def test_a_group_of_zeros_is_exactly_zero_again(sym: bool, zero: float) -> None:
    scale, found, codes = one_group([0.0, 0.0], sym=sym)
    assert scale == pytest.approx(2 / 15)
    assert (found, codes) == (zero, [zero, zero])


def test_halves_are_rounded_to_even() -> None:
    assert one_group([7.5, -7.5, 0.5, 1.5, 2.5])[2] == [15.0, 0.0, 8.0, 10.0, 10.0]


def test_each_output_has_its_own_scale() -> None:
    scale, _ = fit_group(torch.tensor([[-7.5, -15.0], [1.0, 1.0]]), bits=4, sym=True)
    assert scale.tolist() == [1.0, 2.0]


@given(
    st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=8),
    st.sampled_from([4, 8]),
    st.booleans(),
)
def test_no_weights_give_a_code_or_a_value_out_of_range(weights: list[float], bits: int, sym: bool) -> None:
    group = torch.tensor(weights)[:, None]
    scale, zero = fit_group(group, bits=bits, sym=sym)
    codes = quantize(group, scale, zero, bits=bits)
    assert scale.item() > 0
    assert 0 <= zero.item() < 1 << bits
    assert ((codes >= 0) & (codes < 1 << bits) & (codes == codes.round())).all()
    assert dequantize(codes, scale, zero).isfinite().all()


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=20), st.sampled_from([4, 8]))
def test_an_asymmetric_weight_is_off_by_at_most_a_step(weights: list[int], bits: int) -> None:
    group = torch.tensor(weights, dtype=torch.float32)[:, None]
    scale, zero = fit_group(group, bits=bits, sym=False)
    off = (dequantize(quantize(group, scale, zero, bits=bits), scale, zero) - group).abs().max()
    # Half a step for the weight's rounding and half for the zero's, which may push an extreme out of range.
    assert off <= scale.item() * 1.001
