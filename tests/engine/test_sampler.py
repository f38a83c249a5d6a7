"""The sampler: seeds, what can never be chosen, and that neighbours in a batch do not matter."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from qwartet.engine.request import Request
from qwartet.engine.sampler import Sampler
from qwartet.engine.sampling_params import SamplingParams

VOCAB_SIZE = 12
LOGITS = torch.randn(5, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))


def request(request_id: int = 0, **params) -> Request:
    return Request(request_id, [1, 2], SamplingParams(**params))


def draws(sampler: Sampler, one: Request, row: torch.Tensor, num: int) -> list[int]:
    return [sampler.sample(row[None], [one])[0] for _ in range(num)]


def test_greedy_takes_the_highest_logit() -> None:
    requests = [request(i, temperature=0) for i in range(5)]
    assert Sampler().sample(LOGITS, requests) == LOGITS.argmax(-1).tolist()


def test_a_seed_gives_the_same_tokens_again() -> None:
    first, second = (draws(Sampler(), request(i, seed=7), LOGITS[0], 20) for i in range(2))
    assert first == second
    assert first != draws(Sampler(), request(2, seed=8), LOGITS[0], 20)


def test_without_a_seed_two_requests_differ() -> None:
    assert draws(Sampler(), request(0), LOGITS[0], 40) != draws(Sampler(), request(1), LOGITS[0], 40)


def test_a_seeded_request_does_not_depend_on_its_neighbours_or_its_row() -> None:
    alone = draws(Sampler(), request(0, seed=7), LOGITS[0], 10)
    sampler, seeded = Sampler(), request(3, seed=7)
    others = [request(10 + i, seed=i) for i in range(4)]
    together = []
    for step in range(10):
        place = step % 5
        requests = [*others[:place], seeded, *others[place:]]
        rows = torch.stack([LOGITS[0] if one is seeded else LOGITS[1] for one in requests])
        together.append(sampler.sample(rows, requests)[place])
    assert together == alone


def test_tokens_come_as_often_as_their_probability_says() -> None:
    row = torch.tensor([0.5, 0.3, 0.2]).log()
    counts = Counter(draws(Sampler(), request(seed=1), row, 2000))
    # three standard deviations of a binomial of 2000 draws are at most 0.034
    assert [counts[i] / 2000 for i in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.035)


def test_temperature_sharpens_and_flattens() -> None:
    row = torch.tensor([0.0, 1.0])
    share = {t: sum(draws(Sampler(), request(seed=1, temperature=t), row, 500)) / 500 for t in (0.2, 1.0, 10.0)}
    assert share[0.2] > 0.97 > share[1.0] > 0.6 > share[10.0] > 0.4


@pytest.mark.parametrize("params", [{"temperature": 1e-4}, {"temperature": 1e-30}, {"temperature": 100.0}])
def test_no_temperature_makes_the_probabilities_overflow(params: dict) -> None:
    huge = torch.tensor([3e4, -3e4, 2.9e4])
    assert Sampler().sample(huge[None], [request(seed=1, **params)])[0] in (0, 2)


def test_top_k_and_top_p_bound_what_is_drawn() -> None:
    order = LOGITS[0].argsort(descending=True).tolist()
    assert set(draws(Sampler(), request(seed=1, top_k=3, temperature=5), LOGITS[0], 200)) == set(order[:3])
    assert set(draws(Sampler(), request(seed=1, top_p=0.0), LOGITS[0], 20)) == {order[0]}


@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": 100, "seed": 3}])
def test_padding_rows_of_the_vocabulary_are_never_chosen(params: dict) -> None:
    row = torch.zeros(VOCAB_SIZE)
    row[8:] = 50.0
    chosen = draws(Sampler(num_valid_tokens=8), request(**params), row, 100)
    assert max(chosen) < 8


def test_a_prompt_with_an_id_of_the_padding_can_be_penalised() -> None:
    one = Request(0, [1, VOCAB_SIZE - 1], SamplingParams(repetition_penalty=1.1, temperature=0))
    assert Sampler(num_valid_tokens=8).sample(LOGITS[:1], [one])[0] < 8


def test_stop_tokens_wait_for_min_tokens() -> None:
    row = torch.zeros(VOCAB_SIZE)
    row[4] = 9.0
    one = Request(0, [1], SamplingParams(min_tokens=1, temperature=0), frozenset({4, 99}))
    assert Sampler().sample(row[None], [one]) != [4]
    one.append(0)
    assert Sampler().sample(row[None], [one]) == [4]


def test_a_requests_own_processors_see_the_logits_and_all_ids() -> None:
    def only_the_length(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
        return torch.full_like(logits, -torch.inf).index_fill(0, torch.tensor([len(ids)]), 0.0)

    one = Request(0, [1, 2], SamplingParams(seed=1), logits_processors=(only_the_length,), completion_ids=[9, 9, 9])
    assert Sampler().sample(LOGITS[:1], [one]) == [5]


def test_logits_in_low_precision_are_processed_in_fp32_and_left_as_they_are() -> None:
    row = LOGITS[:1].bfloat16()
    before = row.clone()
    Sampler(num_valid_tokens=8).sample(row, [request(seed=1, temperature=0.7, top_p=0.8, repetition_penalty=1.2)])
    assert torch.equal(row, before)


def test_a_request_that_ended_leaves_no_generator_behind() -> None:
    sampler, one = Sampler(), request(seed=1)
    first = draws(sampler, one, LOGITS[0], 5)
    sampler.forget(one)
    assert draws(sampler, one, LOGITS[0], 5) == first
    assert Sampler().sample(torch.empty(0, VOCAB_SIZE), []) == []
