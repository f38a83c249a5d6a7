"""The rotary table against its formula, and the two length extensions at their borders."""

from __future__ import annotations

import math

import pytest
import torch

from qwartet.kernels.reference.rotary import apply_rotary
from qwartet.layers.rotary import PositionConfig, RotaryTable, ntk_alpha


def config(**changes) -> PositionConfig:
    published_7b = {
        "rope_theta": 10000.0,
        "rotary_dim": 128,
        "train_length": 8192,
        "max_length": 32768,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
    }
    return PositionConfig(**{**published_7b, **changes})


def test_the_table_holds_cos_and_sin_of_position_times_frequency() -> None:
    small = config(rotary_dim=8, train_length=16, max_length=64)
    cos, sin = RotaryTable(small)(torch.arange(3 * 64))
    assert cos.shape == sin.shape == (3 * 64, 1, 4)
    for slot, alpha in enumerate((1, 3, 7)):
        base = 10000.0 * alpha ** (8 / 6)
        for position in (0, 1, 17, 63):
            for j in range(4):
                angle = position * base ** (-2 * j / 8)
                row = slot * 64 + position
                assert cos[row, 0, j].item() == pytest.approx(math.cos(angle), abs=1e-5)
                assert sin[row, 0, j].item() == pytest.approx(math.sin(angle), abs=1e-5)


def test_each_alpha_has_rows_of_its_own_and_no_more_are_made() -> None:
    assert config().num_alphas == 3
    assert config(use_dynamic_ntk=False).num_alphas == 1
    assert RotaryTable(config(rotary_dim=4, train_length=10, max_length=41)).cos.shape == (4 * 41, 2)


@pytest.mark.parametrize(
    ("length", "alpha"),
    [
        (1, 1),
        (8191, 1),
        (8192, 1),
        (8193, 3),
        (16384, 3),
        (16385, 7),
        (32768, 7),
        (32769, 15),
        (65536, 15),
        (65537, 31),
    ],
)
def test_alpha_doubles_at_each_multiple_of_the_training_length(length: int, alpha: int) -> None:
    assert ntk_alpha(config().alpha_slot(length)) == alpha
    assert config(use_dynamic_ntk=False).alpha_slot(length) == 0


@pytest.mark.parametrize("train_length", [2, 3, 128, 2048, 8192])
def test_alpha_is_the_originals_expression_at_every_length(train_length: int) -> None:
    positions = config(train_length=train_length)
    for length in range(1, 40 * train_length, max(1, train_length // 64)):
        original = max(2 ** math.ceil(math.log(length / train_length, 2) + 1) - 1, 1)
        assert ntk_alpha(positions.alpha_slot(length)) == original, length


def test_logn_scales_queries_beyond_the_training_length_only() -> None:
    scales = config(train_length=100).query_scales(torch.tensor([0, 98, 99, 100, 199, 9999]))
    assert scales.dtype == torch.float32
    assert scales[:3].tolist() == [1, 1, 1]
    expected = [math.log(p, 100) for p in (101, 200, 10000)]
    assert scales[3:].tolist() == pytest.approx(expected, abs=1e-6)
    assert config(use_logn_attn=False).query_scales(torch.tensor([500])) is None


def test_rotation_turns_the_halves_of_a_head_against_each_other() -> None:
    quarter_turn = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])
    assert apply_rotary(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), *quarter_turn).tolist() == [[[-3, -4, 1, 2]]]


def test_elements_beyond_rotary_dim_stay_as_they_are() -> None:
    quarter_turn = torch.tensor([[[0.0]]]), torch.tensor([[[1.0]]])
    assert apply_rotary(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), *quarter_turn).tolist() == [[[-2, 1, 3, 4]]]


def test_scores_depend_only_on_the_distance_of_two_positions() -> None:
    positions = config(rotary_dim=16, train_length=64, max_length=64, use_dynamic_ntk=False)
    query, key = torch.randn(2, 1, 1, 16, generator=torch.Generator().manual_seed(0))
    table = RotaryTable(positions)

    def score(i: int, j: int) -> float:
        rotated = (apply_rotary(x, *table(torch.tensor([at]))) for x, at in ((query, i), (key, j)))
        return float(torch.mul(*rotated).sum())

    assert score(7, 3) == pytest.approx(score(60, 56), abs=1e-5)
    assert score(7, 3) != pytest.approx(score(20, 3), abs=0.1)


def test_a_low_precision_head_is_rotated_in_fp32_and_rounded_once() -> None:
    x = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    cos, sin = RotaryTable(config(rotary_dim=8, train_length=16, max_length=16))(torch.arange(5))
    assert torch.equal(apply_rotary(x, cos, sin), apply_rotary(x.float(), cos, sin).bfloat16())
