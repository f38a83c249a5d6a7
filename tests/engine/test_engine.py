"""The engine against the oracle: whatever arrives when, and however little room there is, greedy ids are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwartet.engine.engine import BLOCK_SIZE, Engine
from qwartet.engine.request import Request
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import ContextWarning, OutOfMemoryError, RequestError, SettingError
from qwartet.models.qwen import QwenModel
from tests.reference.naive_model import naive_greedy, naive_logits
from tests.reference.tiny_model import CONFIG, tiny_network, tiny_weights

WEIGHTS = tiny_weights()
CONTEXT = CONFIG["max_position_embeddings"]
FULL_BLOCKS = CONTEXT // BLOCK_SIZE  # the smallest cache that serves one request of full length
MIN_MARGIN = 1e-3  # between the best two logits, where two fp32 computations differ by 1e-5

# Lengths on both sides of the borders of NTK (24, 48), of a block (16) and of the context (96).
PROMPT_LENGTHS = (1, 2, 15, 16, 17, 23, 24, 25, 40, 48, 49, 60)
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def network() -> QwenModel:
    return tiny_network(WEIGHTS)


@cache
def prompt(number: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(200 + number)
    return tuple(torch.randint(CONFIG["vocab_size"], (PROMPT_LENGTHS[number],), generator=generator).tolist())


@cache
def expected_ids(number: int) -> list[int]:
    """The oracle's answer, which rounding cannot change."""
    ids = list(prompt(number))
    completion = naive_greedy(CONFIG, WEIGHTS, ids, NUM_TOKENS)
    logits = naive_logits(CONFIG, WEIGHTS, ids + completion[:-1], prompt_length=len(ids))[len(ids) - 1 :]
    best, second = logits.topk(2).values.unbind(-1)
    assert (best - second).min() > MIN_MARGIN, "choose another seed"
    return completion


@dataclass
class Arrival:
    step: int
    number: int  # of the prompt
    num_tokens: int
    abort_after: int | None = None  # steps after the arrival


def serve(engine: Engine, arrivals: Sequence[Arrival]) -> tuple[list[Request], int]:
    """Runs all arrivals to their ends; returns their requests and how often one was preempted."""
    requests: dict[int, Request] = {}
    num_preempted, step = 0, 0
    while engine.has_unfinished or len(requests) < len(arrivals):
        for place, arrival in enumerate(arrivals):
            if arrival.step == step:
                params = SamplingParams(max_tokens=arrival.num_tokens, temperature=0)
                requests[place] = engine.add_request(prompt(arrival.number), params)
            if arrival.abort_after is not None and arrival.step + arrival.abort_after == step:
                engine.finish(requests[place])
        before = {place: request.num_computed_tokens for place, request in requests.items()}
        if engine.has_unfinished:
            engine.step()
        engine.block_manager.check_integrity()
        num_preempted += sum(requests[place].num_computed_tokens < computed for place, computed in before.items())
        step += 1
        assert step < 5000, "the engine makes no progress"
    return [requests[place] for place in range(len(arrivals))], num_preempted


def check(engine: Engine, arrivals: Sequence[Arrival]) -> int:
    """Serves and compares with the oracle; returns the number of preemptions."""
    requests, num_preempted = serve(engine, arrivals)
    for arrival, request in zip(arrivals, requests, strict=True):
        assert request.completion_ids == expected_ids(arrival.number)[: len(request.completion_ids)], arrival
        if arrival.abort_after is None:
            assert len(request.completion_ids) == arrival.num_tokens
            assert request.finish_reason == "length"
        else:
            assert request.finish_reason in ("abort", "length")
    assert engine.block_manager.num_free_blocks == engine.block_manager.num_blocks
    return num_preempted


def test_every_prompt_alone_gives_the_oracles_ids(network: QwenModel) -> None:
    check(Engine(network), [Arrival(100 * number, number, NUM_TOKENS) for number in range(len(PROMPT_LENGTHS))])


@pytest.mark.parametrize("budget", [1, 5, 16, 33, 2048])
def test_all_prompts_at_once_give_the_oracles_ids_at_any_chunk_size(network: QwenModel, budget: int) -> None:
    engine = Engine(network, max_num_batched_tokens=budget)
    check(engine, [Arrival(0, number, NUM_TOKENS) for number in range(len(PROMPT_LENGTHS))])


@pytest.mark.parametrize("num_blocks", [FULL_BLOCKS, FULL_BLOCKS + 3, 2 * FULL_BLOCKS])
def test_requests_that_were_preempted_give_the_oracles_ids(network: QwenModel, num_blocks: int) -> None:
    engine = Engine(network, num_blocks=num_blocks, max_num_batched_tokens=40)
    arrivals = [Arrival(place, number, NUM_TOKENS) for place, number in enumerate((9, 2, 3, 7, 4, 11, 3, 0))]
    assert check(engine, arrivals) > 0, "the cache was large enough for all: this test tests nothing"


arrivals = st.builds(
    Arrival,
    step=st.integers(0, 30),
    number=st.integers(0, len(PROMPT_LENGTHS) - 1),
    num_tokens=st.integers(1, NUM_TOKENS),
    abort_after=st.none() | st.integers(0, 30),
)


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(arrivals, min_size=1, max_size=8),
    num_blocks=st.integers(FULL_BLOCKS, 4 * FULL_BLOCKS),
    budget=st.integers(1, 80),
    max_num_seqs=st.integers(1, 8),
)
def test_random_arrivals_budgets_cache_sizes_and_aborts_give_the_oracles_ids(
    network: QwenModel, arrivals: list[Arrival], num_blocks: int, budget: int, max_num_seqs: int
) -> None:
    engine = Engine(network, num_blocks=num_blocks, max_num_batched_tokens=budget, max_num_seqs=max_num_seqs)
    check(engine, arrivals)


def test_a_seeded_sample_is_the_same_alone_preempted_and_in_chunks(network: QwenModel) -> None:
    def sampled(engine: Engine, others: Sequence[int]) -> list[int]:
        for number in others:
            engine.add_request(prompt(number), SamplingParams(max_tokens=30, seed=number))
        one = engine.add_request(prompt(8), SamplingParams(max_tokens=20, seed=7, temperature=0.8, top_p=0.9))
        while engine.has_unfinished:
            engine.step()
        return one.completion_ids

    alone = sampled(Engine(network), [])
    assert sampled(Engine(network, num_blocks=FULL_BLOCKS, max_num_batched_tokens=30), [9, 3, 7]) == alone
    assert sampled(Engine(network, max_num_batched_tokens=7), [4]) == alone


def run(
    network: QwenModel, number: int, params: SamplingParams, stop_token_ids: Sequence[int] = (), **settings: int
) -> Request:
    """One prompt on an engine of its own, with the model's stop tokens."""
    engine = Engine(network, **settings)
    request = engine.add_request(prompt(number), params, stop_token_ids=stop_token_ids)
    while engine.has_unfinished:
        engine.step()
    return request


GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
# The place of a token in the oracle's answer to prompt 4 that does not come before it, and that token.
PLACE = next(i for i, token in enumerate(expected_ids(4)) if i >= 3 and token not in expected_ids(4)[:i])
STOP = expected_ids(4)[PLACE]


def test_a_stop_token_ends_a_completion_whether_it_is_the_models_or_the_callers(network: QwenModel) -> None:
    by_model = run(network, 4, GREEDY, [STOP])
    by_caller = run(network, 4, replace(GREEDY, stop_token_ids=(STOP,), ignore_eos=True))
    for request in (by_model, by_caller):
        assert (request.completion_ids, request.finish_reason) == (expected_ids(4)[: PLACE + 1], "stop")


def test_ignore_eos_goes_on_after_the_models_stop_tokens(network: QwenModel) -> None:
    request = run(network, 4, replace(GREEDY, ignore_eos=True), [STOP])
    assert request.completion_ids == expected_ids(4)
    assert request.finish_reason == "length"


def test_no_stop_token_comes_before_min_tokens(network: QwenModel) -> None:
    request = run(network, 4, replace(GREEDY, min_tokens=PLACE + 2), [STOP])
    assert request.completion_ids[:PLACE] == expected_ids(4)[:PLACE]
    assert len(request.completion_ids) >= PLACE + 2 and STOP not in request.completion_ids[: PLACE + 2]


def test_a_completion_ends_where_the_context_does(network: QwenModel) -> None:
    request = run(network, 11, GREEDY, max_model_len=64)
    assert (len(request.prompt_ids), len(request.completion_ids), request.finish_reason) == (60, 4, "length")


def test_the_outputs_of_a_step_are_the_tokens_that_it_added(network: QwenModel) -> None:
    engine = Engine(network, max_num_batched_tokens=20)
    requests = [engine.add_request(prompt(n), SamplingParams(max_tokens=3, temperature=0)) for n in (2, 8)]
    seen = {request.request_id: [] for request in requests}
    while engine.has_unfinished:
        for output in engine.step():
            seen[output.request.request_id].append(output.token_id)
            assert output.finish_reason == output.request.finish_reason
    assert [seen[request.request_id] for request in requests] == [request.completion_ids for request in requests]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], "the prompt is empty; give at least one token"),
        ([1] * CONTEXT, f"{CONTEXT} tokens.*context {CONTEXT}; shorten"),
        ([1, CONFIG["vocab_size"]], "ids outside 0..79"),
        ([-1], "ids outside 0..79"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_refused(network: QwenModel, ids: list[int], words: str) -> None:
    engine = Engine(network)
    with pytest.raises(RequestError, match=words):
        engine.add_request(ids, SamplingParams())
    assert not engine.has_unfinished


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_model_len", 0),
        ("max_model_len", CONTEXT + 1),
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", 0),
        ("num_blocks", FULL_BLOCKS - 1),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(network: QwenModel, name: str, value: int) -> None:
    with pytest.raises(SettingError, match=f"^{name} is {value}; here it must lie in "):
        Engine(network, **{name: value})


def test_the_cache_is_as_large_as_is_of_use_or_as_fits(network: QwenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    block_bytes = BLOCK_SIZE * 2 * 2 * 2 * 16 * 4  # k and v, layers, heads, head_dim, fp32
    assert Engine(network, max_num_seqs=3).block_manager.num_blocks == 3 * FULL_BLOCKS
    monkeypatch.setattr("qwartet.engine.engine.available_bytes", lambda device: 2 * 8 * block_bytes)
    assert Engine(network).block_manager.num_blocks == 8
    monkeypatch.setattr("qwartet.engine.engine.available_bytes", lambda device: 2 * 3 * block_bytes)
    with pytest.raises(OutOfMemoryError, match=f"set max_model_len to {3 * BLOCK_SIZE} or less"):
        Engine(network, max_model_len=3 * BLOCK_SIZE + 1)
    assert Engine(network, max_model_len=48).block_manager.num_blocks == 3


def test_a_context_that_does_not_fit_the_memory_is_shortened_and_said(network, monkeypatch) -> None:
    block_bytes = BLOCK_SIZE * 2 * 2 * 2 * 16 * 4  # k and v, layers, heads, head_dim, fp32
    monkeypatch.setattr("qwartet.engine.engine.available_bytes", lambda device: 2 * 3 * block_bytes)
    with pytest.warns(ContextWarning, match=f"the context is {3 * BLOCK_SIZE} tokens instead of"):
        assert Engine(network).max_model_len == 3 * BLOCK_SIZE
