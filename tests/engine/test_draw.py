"""Candidates and random numbers: the fast way keeps what the definition keeps, and the draws follow the softmax."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from qwartet.engine.draw import GUMBEL_RANGE, NUM_CANDIDATES, candidates, draw, gumbel, sibling_seed, warp_logits
from qwartet.engine.sampling_params import SamplingParams

LIMITS = (
    {}, {"top_k": 1}, {"top_k": 7}, {"top_k": 2000}, {"top_p": 0.3}, {"top_p": 0.95}, {"min_p": 0.02},
    {"top_k": 50, "top_p": 0.8}, {"top_k": 2000, "top_p": 0.9, "min_p": 0.001}, {"temperature": 0.3, "top_p": 0.9},
    {"temperature": 3.0, "top_p": 0.99}, {"top_p": 0.0},
)  # fmt: skip


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0])
@pytest.mark.parametrize("vocab_size", [1, 5, NUM_CANDIDATES, 3000])
def test_candidates_are_what_the_definition_keeps(limits: dict, spread: float, vocab_size: int) -> None:
    params = SamplingParams(**limits)
    for seed in range(3):
        logits = spread * torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed))
        warped = warp_logits(logits, params)
        kept = set(warped.isfinite().nonzero()[:, 0].tolist())
        can_win = set((warped > warped.max() - GUMBEL_RANGE).nonzero()[:, 0].tolist())
        token_ids, scores = candidates(logits, params)
        # Where the mass reaches top_p within rounding, fp32 sums in another order may keep one id more or fewer.
        slack = 1 if 0 < params.top_p < 1 else 0
        assert len(can_win - set(token_ids.tolist())) <= slack and len(set(token_ids.tolist()) - kept) <= slack
        assert scores == pytest.approx((logits[token_ids] / params.temperature).tolist(), rel=1e-5, abs=1e-6)


def test_ids_that_were_forbidden_are_no_candidates_and_ties_are_kept_as_defined() -> None:
    logits = torch.tensor([1.0, -torch.inf, 1.0, 1.0, 0.0])
    for limits in ({}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.9}):
        params = SamplingParams(**limits)
        kept = warp_logits(logits, params).isfinite().nonzero()[:, 0].tolist()
        assert sorted(candidates(logits, params)[0].tolist()) == kept and 1 not in kept


def test_the_numbers_depend_on_seed_place_and_id_alone_and_stay_what_they_are() -> None:
    ids = np.arange(5)
    assert gumbel(7, 3, ids) == pytest.approx(gumbel(7, 3, ids[::-1])[::-1])
    assert gumbel(1, 2, np.array([3]))[0] == pytest.approx(GOLDEN_NUMBER)
    found = {round(float(gumbel(seed, place, ids)[i]), 9) for seed in range(5) for place in range(5) for i in range(5)}
    assert len(found) == 125


GOLDEN_NUMBER = 1.849955726969309  # a seed's text must not change with a new version


def test_the_numbers_are_gumbel_distributed_and_neighbours_do_not_agree() -> None:
    ids = np.arange(20_000)
    one = gumbel(5, 0, ids)
    # mean: Euler's constant; variance: pi^2 / 6; the tolerances are four standard errors
    assert one.mean() == pytest.approx(0.5772, abs=0.037) and one.var() == pytest.approx(1.6449, abs=0.1)
    for other in (gumbel(6, 0, ids), gumbel(5, 1, ids), gumbel(5, 0, ids + 1)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert np.isfinite(one).all() and one.max() - one.min() < GUMBEL_RANGE


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0.7, top_k=4)])
def test_draws_come_as_often_as_their_probability_says(params: SamplingParams) -> None:
    logits = torch.tensor([0.3, 1.2, -0.5, 0.0, 0.9, -2.0])
    expected = warp_logits(logits, params).softmax(-1).double().numpy() * 6000
    counts = Counter(draw(logits, params, seed, place) for seed in range(60) for place in range(100))
    possible = expected > 0
    assert set(counts) <= set(np.flatnonzero(possible).tolist())
    found = np.array([counts[i] for i in range(6)])[possible]
    chi_square = float(((found - expected[possible]) ** 2 / expected[possible]).sum())
    assert chi_square < 20.5  # 0.1 % of the chi-square distribution with five degrees of freedom is above


def test_siblings_have_seeds_of_their_own_and_the_first_the_requests() -> None:
    seeds = [sibling_seed(7, index) for index in range(100)]
    assert seeds[0] == 7 and len(set(seeds)) == 100 and all(0 <= seed < 2**64 for seed in seeds)
    assert seeds[1] != sibling_seed(8, 1)
