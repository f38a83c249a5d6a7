"""The sampler: seeds, what can never be chosen, and that neighbours in a batch do not matter."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from qwartet.engine.request import Request
from qwartet.engine.sampler import Sampled, Sampler
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.scheduler import ScheduledRequest
from qwartet.errors import NotFiniteError, RequestError
from qwartet.layers.head import Head

VOCAB_SIZE = 12
LOGITS = torch.randn(5, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))


def sampler(num_valid_tokens: int | None = None, vocab_size: int = VOCAB_SIZE) -> Sampler:
    """One whose head gives the hidden states back: they are the logits."""
    head = Head(vocab_size, vocab_size)
    head.weight.data = torch.eye(vocab_size)
    return Sampler(head, num_valid_tokens)


def request(request_id: int = 0, **params) -> Request:
    return Request(request_id, [1, 2], SamplingParams(**params), seed=params.get("seed") or request_id)


def sample(one: Sampler, logits: torch.Tensor, requests: list[Request]) -> list[Sampled]:
    """A step in which every request has one row more than drafts."""
    items = []
    for some in requests:
        some.table.num_computed_tokens = some.num_tokens - 1
        items.append(ScheduledRequest(some, 1, len(some.draft_ids)))
    with torch.inference_mode():
        return one.sample(logits, items)


def tokens(one: Sampler, logits: torch.Tensor, requests: list[Request]) -> list[int]:
    found = sample(one, logits, requests)
    assert all(result.error is None for result in found), found
    return [result.token_ids[0] for result in found]


def draws(one: Sampler, some: Request, row: torch.Tensor, num: int) -> list[int]:
    """Tokens of one place after another, from the same logits."""
    found = []
    for _ in range(num):
        found += tokens(one, row[None], [some])
        some.append(found[-1])
    return found


def test_greedy_takes_the_highest_logit() -> None:
    requests = [request(i, temperature=0) for i in range(5)]
    assert tokens(sampler(), LOGITS, requests) == LOGITS.argmax(-1).tolist()


def test_a_seed_gives_the_same_tokens_again() -> None:
    first, second = (draws(sampler(), request(i, seed=7), LOGITS[0], 20) for i in range(2))
    assert first == second
    assert first != draws(sampler(), request(2, seed=8), LOGITS[0], 20)


def test_a_seeded_request_does_not_depend_on_its_neighbours_or_its_row() -> None:
    alone = draws(sampler(), request(0, seed=7), LOGITS[0], 10)
    one, seeded = sampler(), request(3, seed=7)
    others = [request(10 + i, seed=i, max_tokens=99) for i in range(4)]
    together = []
    for step in range(10):
        place = step % 5
        requests = [*others[:place], seeded, *others[place:]]
        rows = torch.stack([LOGITS[0] if some is seeded else LOGITS[1] for some in requests])
        together.append(tokens(one, rows, requests)[place])
        seeded.append(together[-1])
    assert together == alone


def test_tokens_come_as_often_as_their_probability_says() -> None:
    row = torch.tensor([0.5, 0.3, 0.2]).log()
    counts = Counter(draws(sampler(vocab_size=3), request(seed=1, max_tokens=9999), row, 2000))
    # three standard deviations of a binomial of 2000 draws are at most 0.034
    assert [counts[i] / 2000 for i in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.035)


def test_temperature_sharpens_and_flattens() -> None:
    row = torch.tensor([0.0, 1.0])
    share = {
        t: sum(draws(sampler(vocab_size=2), request(seed=1, temperature=t), row, 500)) / 500 for t in (0.2, 1.0, 10.0)
    }
    assert share[0.2] > 0.97 > share[1.0] > 0.6 > share[10.0] > 0.4


@pytest.mark.parametrize("params", [{"temperature": 1e-4}, {"temperature": 1e-30}, {"temperature": 100.0}])
def test_no_temperature_makes_the_probabilities_overflow(params: dict) -> None:
    huge = torch.tensor([3e4, -3e4, 2.9e4])
    assert tokens(sampler(vocab_size=3), huge[None], [request(seed=1, **params)])[0] in (0, 2)


def test_top_k_and_top_p_bound_what_is_drawn() -> None:
    order = LOGITS[0].argsort(descending=True).tolist()
    assert set(draws(sampler(), request(seed=1, top_k=3, temperature=5), LOGITS[0], 200)) == set(order[:3])
    assert set(draws(sampler(), request(seed=1, top_p=0.0), LOGITS[0], 20)) == {order[0]}


@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": 100, "seed": 3}])
def test_padding_rows_of_the_vocabulary_are_never_chosen(params: dict) -> None:
    row = torch.zeros(VOCAB_SIZE)
    row[8:] = 50.0
    chosen = draws(sampler(8), request(**params), row, 100)
    assert max(chosen) < 8


def test_a_prompt_with_an_id_of_the_padding_can_be_penalised() -> None:
    one = Request(0, [1, VOCAB_SIZE - 1], SamplingParams(repetition_penalty=1.1, temperature=0))
    assert tokens(sampler(8), LOGITS[:1], [one])[0] < 8


def test_stop_tokens_wait_for_min_tokens() -> None:
    row = torch.zeros(VOCAB_SIZE)
    row[4] = 9.0
    one = Request(0, [1], SamplingParams(min_tokens=1, temperature=0), stop_token_ids=frozenset({4, 99}))
    assert tokens(sampler(), row[None], [one]) != [4]
    one.append(0)
    assert tokens(sampler(), row[None], [one]) == [4]


def test_repetition_counts_the_prompt_and_the_other_penalties_the_completion_alone() -> None:
    row = torch.tensor([4.0, 3.9, 3.8, 3.7] + [0.0] * 8)
    one = Request(0, [0], SamplingParams(temperature=0, repetition_penalty=2.0), completion_ids=[1])
    assert tokens(sampler(), row[None], [one]) == [2]
    for name in ("presence_penalty", "frequency_penalty"):
        one = Request(0, [0], SamplingParams(temperature=0, **{name: 1.0}), completion_ids=[1])
        assert tokens(sampler(), row[None], [one]) == [0]
    often = Request(0, [9], SamplingParams(temperature=0, frequency_penalty=0.2), completion_ids=[0, 0, 0, 1])
    assert tokens(sampler(), row[None], [often]) == [2]  # 3.4, 3.7, 3.8


def test_penalties_follow_the_completion_from_step_to_step() -> None:
    row = torch.tensor([4.0, 3.9, 3.8, 3.7] + [0.0] * 8)
    one = Request(0, [9], SamplingParams(temperature=0, presence_penalty=5.0))
    assert draws(sampler(), one, row, 4) == [0, 1, 2, 3]


def test_logit_bias_moves_the_choice() -> None:
    one = Request(0, [9], SamplingParams(temperature=0, logit_bias=((7, 50.0),)))
    assert tokens(sampler(), LOGITS[:1], [one]) == [7]


def test_min_p_leaves_what_is_probable_enough() -> None:
    row = torch.tensor([0.5, 0.3, 0.2]).log()
    chosen = draws(sampler(vocab_size=3), request(seed=1, min_p=0.5, max_tokens=999), row, 200)
    assert set(chosen) == {0, 1}


def test_a_requests_own_processors_see_the_logits_and_all_ids() -> None:
    def only_the_length(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
        return torch.full_like(logits, -torch.inf).index_fill(0, torch.tensor([len(ids)]), 0.0)

    one = Request(0, [1, 2], SamplingParams(seed=1), logits_processors=(only_the_length,), completion_ids=[9, 9, 9])
    one.draft_ids = [5, 6, 0]
    (result,) = sample(sampler(), LOGITS[:1].expand(4, -1), [one])
    assert result.token_ids == [5, 6, 7], "with the ids that this step has taken already"


def test_an_exception_in_a_processor_ends_that_request_alone() -> None:
    def broken(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
        raise ZeroDivisionError("of a user")

    bad = Request(1, [1], SamplingParams(), logits_processors=(broken,))
    found = sample(sampler(), LOGITS[:3], [request(0, temperature=0), bad, request(2, seed=1)])
    assert [type(result.error) for result in found] == [type(None), ZeroDivisionError, type(None)]
    assert len(found[0].token_ids) == len(found[2].token_ids) == 1


@pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 1}])
def test_numbers_that_are_not_finite_end_that_request_alone(params: dict) -> None:
    rows = LOGITS[:3].clone()
    rows[1, 3] = torch.nan
    found = sample(sampler(), rows, [request(i, **params) for i in range(3)])
    assert [type(result.error) for result in found] == [type(None), NotFiniteError, type(None)]
    assert "token 2 of request 1" in str(found[1].error)


def test_where_no_token_may_follow_the_request_ends() -> None:
    one = Request(0, [1], SamplingParams(seed=1), logits_processors=(lambda x, ids: torch.full_like(x, -torch.inf),))
    (result,) = sample(sampler(), LOGITS[:1], [one])
    assert isinstance(result.error, RequestError) and "no token may follow" in str(result.error)


@pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 5}, {"seed": 5, "presence_penalty": 3.0}])
@pytest.mark.parametrize("num_accepted", [0, 1, 2, 3])
def test_drafts_bring_the_tokens_that_would_have_come_one_by_one(params: dict, num_accepted: int) -> None:
    expected = []
    one, slow = request(**params), sampler()
    for place in range(4):
        expected += tokens(slow, LOGITS[place : place + 1], [one])
        one.append(expected[-1])
    drafted = request(**params)
    drafted.draft_ids = [
        *expected[:num_accepted],
        *((token_id + 1) % VOCAB_SIZE for token_id in expected[num_accepted:3]),
    ]
    (result,) = sample(sampler(), LOGITS[:4], [drafted])
    assert result.token_ids == expected[: num_accepted + 1]


def test_nothing_is_taken_behind_a_stop_token() -> None:
    best = LOGITS.argmax(-1).tolist()
    one = Request(0, [1], SamplingParams(temperature=0), stop_token_ids=frozenset({best[1]}))
    one.draft_ids = best[:3]
    (result,) = sample(sampler(), LOGITS[:4], [one])
    assert result.token_ids == best[:2]


def test_logprobs_are_those_before_anything_changes_the_logits() -> None:
    one = request(temperature=0, logprobs=2, repetition_penalty=50.0, logit_bias={4: 90.0})
    (result,) = sample(sampler(10), LOGITS[:1], [one])
    (told,) = result.logprobs
    whole = LOGITS[0, :10].log_softmax(-1)
    assert told.token_id == result.token_ids[0] == 4
    assert told.logprob == pytest.approx(float(whole[4]))
    assert [token_id for token_id, _ in told.top] == whole.topk(2).indices.tolist()


def test_prompt_logprobs_are_made_in_pieces_and_an_id_of_the_padding_is_impossible() -> None:
    ids = [i % VOCAB_SIZE for i in range(150)]
    one = Request(0, ids, SamplingParams(prompt_logprobs=1, temperature=0))
    rows = torch.randn(150, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        (result,) = sampler(10).sample(rows, [ScheduledRequest(one, 150)])
    whole = rows[:, :10].log_softmax(-1)
    assert result.token_ids == [int(rows[149, :10].argmax())]
    assert one.prompt_logprobs[0] is None and len(one.prompt_logprobs) == 150
    for place, told in enumerate(one.prompt_logprobs[1:]):
        token_id = ids[place + 1]
        assert told.token_id == token_id and len(told.top) == 1
        assert told.logprob == (pytest.approx(float(whole[place, token_id])) if token_id < 10 else -torch.inf)


def test_logits_are_left_as_they_are() -> None:
    rows = LOGITS[:1].clone()
    sample(sampler(8), rows, [request(seed=1, temperature=0.7, top_p=0.8, repetition_penalty=1.2)])
    assert torch.equal(rows, LOGITS[:1])


def test_a_request_that_ended_leaves_nothing_behind() -> None:
    one, some = sampler(), request(seed=1, presence_penalty=1.0)
    draws(one, some, LOGITS[0], 5)
    assert one._seen
    one.release(some)
    assert not one._seen
