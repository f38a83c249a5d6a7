"""Tokens from rows of logits: what is sampled from, the random numbers, and that all rows at once are as each alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qwartet.engine import gumbel as engine_gumbel
from qwartet.engine.gumbel import Sampling, candidates, child_seed, gumbel, sample_row, sample_rows
from qwartet.engine.sampling_params import SamplingParams
from tests.reference import naive_sampling

LIMITS = (
    {}, {"top_k": 1}, {"top_k": 7}, {"top_k": 2000}, {"top_p": 0.3}, {"top_p": 0.95}, {"min_p": 0.02},
    {"top_k": 50, "top_p": 0.8}, {"top_k": 2000, "top_p": 0.9, "min_p": 0.001}, {"temperature": 0.3, "top_p": 0.9},
    {"temperature": 3.0, "top_p": 0.99}, {"top_p": 0.0},
)  # fmt: skip


def numbers(seed: int, place: int, ids: np.ndarray) -> np.ndarray:
    key = engine_gumbel._keys([Sampling(SamplingParams(), seed, place)], torch.device("cpu"))
    return gumbel(key, torch.from_numpy(np.ascontiguousarray(ids)))[0].numpy()


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0])
@pytest.mark.parametrize("vocab_size", [1, 5, 1024, 3000])
def test_candidates_are_those_of_the_reference(limits: dict, spread: float, vocab_size: int) -> None:
    params = SamplingParams(**limits)
    for seed in range(3):
        logits = spread * torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed))
        token_ids, scores = candidates(logits, params)
        expected_ids, expected_scores = naive_sampling.kept(logits.numpy(), params)
        assert token_ids.tolist() == expected_ids and scores.tolist() == expected_scores.tolist()


def test_ids_that_were_forbidden_are_no_candidates_and_ties_are_kept_as_the_original_does() -> None:
    logits = torch.tensor([1.0, -torch.inf, 1.0, 1.0, 0.0])
    for limits, kept in (
        ({}, [0, 2, 3, 4]),
        ({"top_k": 2}, [0, 2, 3]),
        ({"top_p": 0.5}, [0, 2]),
        ({"min_p": 0.9}, [0, 2, 3]),
    ):
        assert sorted(candidates(logits, SamplingParams(**limits))[0].tolist()) == kept


def test_the_numbers_depend_on_seed_place_and_id_alone_and_stay_what_they_are() -> None:
    ids = np.arange(5)
    assert numbers(7, 3, ids) == pytest.approx(numbers(7, 3, ids[::-1])[::-1])
    assert numbers(1, 2, np.array([3]))[0] == pytest.approx(GOLDEN_NUMBER)
    found = {round(float(numbers(seed, place, ids)[i]), 9) for seed in range(5) for place in range(5) for i in range(5)}
    assert len(found) == 125


GOLDEN_NUMBER = 1.849955726969309  # a seed's text must not change with a new version


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31), st.lists(st.integers(0, 2**31), min_size=1, max_size=50))
def test_the_numbers_are_the_references_bit_for_bit_before_the_logarithms(seed, place, ids) -> None:
    key = engine_gumbel._keys([Sampling(SamplingParams(), seed, place)], torch.device("cpu"))
    bits = engine_gumbel._random_bits(key, torch.tensor(ids))[0].double()
    assert ((bits + 0.5) * 2.0**-52).tolist() == [naive_sampling.uniform(seed, place, token_id) for token_id in ids]
    assert numbers(seed, place, np.array(ids)) == pytest.approx(naive_sampling.gumbel(seed, place, ids), rel=1e-14)


def test_the_numbers_are_gumbel_distributed_and_neighbours_do_not_agree() -> None:
    ids = np.arange(20_000)
    one = numbers(5, 0, ids)
    # mean: Euler's constant; variance: pi^2 / 6; the tolerances are four standard errors
    assert one.mean() == pytest.approx(0.5772, abs=0.037) and one.var() == pytest.approx(1.6449, abs=0.1)
    for other in (numbers(6, 0, ids), numbers(5, 1, ids), numbers(5, 0, ids + 1)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert np.isfinite(one).all() and one.max() - one.min() < 40.5


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0.7, top_k=4)])
def test_tokens_come_as_often_as_their_probability_says(params: SamplingParams) -> None:
    logits = torch.tensor([0.3, 1.2, -0.5, 0.0, 0.9, -2.0])
    token_ids, scores = candidates(logits, params)
    expected = np.zeros(6)
    expected[token_ids] = torch.tensor(scores).softmax(-1).numpy() * 6000
    draws = [Sampling(params, seed, place) for seed in range(60) for place in range(100)]
    counts = Counter(sample_rows(logits.expand(6000, -1), draws))
    possible = expected > 0
    assert set(counts) <= set(np.flatnonzero(possible).tolist())
    found = np.array([counts[i] for i in range(6)])[possible]
    chi_square = float(((found - expected[possible]) ** 2 / expected[possible]).sum())
    assert chi_square < 20.5  # 0.1 % of the chi-square distribution with five degrees of freedom is above


any_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-4, 0.3, 0.8, 1.0, 1.7, 100.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 3, 7, 20, 50, 999]),
    top_p=st.sampled_from([1.0, 1.0, 0.0, 0.3, 0.5, 0.75, 0.8, 0.999999]),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]),
)


@st.composite
def any_rows(draw) -> tuple[torch.Tensor, list[Sampling]]:
    """Rows of every kind in one batch: flat and steep, with ties, with forbidden ids, hopeless ones."""
    vocab_size = draw(st.sampled_from([1, 2, 5, 16, 40, 100, 333]))
    num_rows = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    logits = torch.randn(num_rows, vocab_size, generator=generator)
    for row in logits:
        row *= draw(st.sampled_from([0.0, 0.1, 2.0, 8.0, 3e4]))
        how = draw(st.sampled_from(["as it is", "ties", "halves", "forbidden", "nearly all forbidden", "NaN", "-inf"]))
        if how == "ties":
            row.round_()
        elif how == "halves":  # probabilities whose sums meet a top_p exactly
            row.copy_((0.5 ** torch.arange(1.0, vocab_size + 1)).clamp(1e-30).log())
        elif how in ("forbidden", "nearly all forbidden"):
            row[torch.rand(vocab_size, generator=generator) < (0.4 if how == "forbidden" else 0.97)] = -torch.inf
        elif how == "NaN":
            row[draw(st.integers(0, vocab_size - 1))] = torch.nan
        elif how == "-inf":
            row.fill_(-torch.inf)
    seeds = st.one_of(st.integers(0, 3), st.integers(0, 2**63 - 1))
    return logits, [Sampling(draw(any_params), draw(seeds), draw(st.integers(0, 5))) for _ in range(num_rows)]


def expected(logits: torch.Tensor, draws: list[Sampling]) -> list[int]:
    return [
        naive_sampling.draw(row.numpy(), *one) if bool(row.max() > -torch.inf) else -1
        for row, one in zip(logits, draws, strict=True)
    ]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_rows(), st.sampled_from([(256, 4096), (8, 64), (1, 2), (3,)]))
@example(
    (torch.zeros(2, 333), [Sampling(SamplingParams(), 0, 0), Sampling(SamplingParams(top_p=0.5), 0, 0)]),
    (8, 64),
)
def test_all_rows_at_once_give_the_references_tokens_however_few_candidates_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[torch.Tensor, list[Sampling]], num_candidates: tuple[int, ...]
) -> None:
    monkeypatch.setattr(engine_gumbel, "NUM_CANDIDATES", num_candidates)
    before = rows[0].clone()
    assert sample_rows(*rows) == expected(*rows)
    assert torch.equal(rows[0].nan_to_num(), before.nan_to_num()), "the logits were written to"
    for row, one, token_id in zip(*rows, expected(*rows), strict=True):
        assert token_id == -1 or sample_row(row, one) == token_id


@pytest.mark.parametrize("spread", [0.1, 1.0, 2.2, 4.0])
def test_rows_of_a_large_vocabulary_give_the_references_tokens(spread: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = spread * torch.randn(len(LIMITS), 20_000, generator=generator)
    logits += 14 * torch.rand(logits.shape, generator=generator).pow(40)
    draws = [Sampling(SamplingParams(**limits), seed, 7) for seed, limits in enumerate(LIMITS)]
    found = sample_rows(logits.bfloat16().float(), draws)  # with many ties
    assert found == expected(logits.bfloat16().float(), draws)
    assert sample_rows(logits, draws) == expected(logits, draws)


def test_what_a_model_says_is_seldom_left_to_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first candidates decide nearly all of its tokens: sorting a vocabulary takes ten times as long."""
    sorted_rows = []
    monkeypatch.setattr(engine_gumbel, "NUM_CANDIDATES", engine_gumbel.NUM_CANDIDATES[:1])
    monkeypatch.setattr(engine_gumbel, "sample_row", lambda logits, one: sorted_rows.append(one) or 0)
    generator = torch.Generator().manual_seed(4)
    scores = -2.0 * torch.arange(1.0, 50_001).log()  # probabilities as Zipf's, squared
    for limits in ({}, {"top_p": 0.8}, {"top_k": 20, "top_p": 0.8}, {"min_p": 0.05}, {"top_p": 0.95}):
        logits = torch.stack([scores[torch.randperm(50_000, generator=generator)] for _ in range(50)])
        sample_rows(logits, [Sampling(SamplingParams(**limits), seed, 0) for seed in range(50)])
    assert len(sorted_rows) <= 5


def test_children_have_seeds_of_their_own_and_the_first_the_requests() -> None:
    seeds = [child_seed(7, index) for index in range(100)]
    assert seeds[0] == 7 and len(set(seeds)) == 100 and all(0 <= seed < 2**64 for seed in seeds)
    assert seeds[1] != child_seed(8, 1)
