"""What the engine gives out for a request: the oracle's ids, the same sample however it is computed, and an end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from qwartet.engine.engine import BLOCK_SIZE, Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.step_stats import StepStats
from tests.engine import worlds
from tests.engine.schedules import check_nothing_is_left, make_engine
from tests.engine.worlds import CONTEXT, NUM_TOKENS, Prompt, answer
from tests.reference.naive_model import naive_logits

FP32 = worlds.world("fp32")
FULL_BLOCKS = CONTEXT // BLOCK_SIZE  # the smallest cache that serves one request of full length
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
# Prompts whose whole answer rounding cannot change.
PROMPTS = [p for p in worlds.prompts("fp32") if answer("fp32", p, "greedy").num_certain == NUM_TOKENS]


def expected_ids(prompt: Prompt) -> list[int]:
    return list(answer("fp32", prompt, "greedy").token_ids)


def prompt_of(length: int) -> Prompt:
    return next(prompt for prompt in PROMPTS if len(prompt) == length)


def fp32_engine(drafting: str = "off", num_valid: int | None = None, **settings: int | bool | str) -> Engine:
    """An engine on the tiny network that drafts all it can, or nothing."""
    config = EngineConfig(speculation="off" if drafting == "off" else "prompt-lookup", **settings)
    return make_engine("fp32", config, drafting, 0.0, num_valid)


def run_all(engine: Engine) -> None:
    while engine.has_unfinished:
        engine.step()
        engine.block_manager.check_integrity()
    check_nothing_is_left(engine)


def run(engine: Engine, prompt: Prompt, params: SamplingParams, stop_token_ids: Sequence[int] = ()) -> Request:
    request = engine.add_request(prompt, params, RequestOptions(stop_token_ids))
    run_all(engine)
    return request


def test_every_prompt_alone_gives_the_oracles_ids() -> None:
    assert {1, 2, 15, 16, 17, 24, 25, 48, 49} <= {len(prompt) for prompt in PROMPTS}, "borders of blocks and of NTK"
    for prompt in PROMPTS:
        request = run(fp32_engine(), prompt, GREEDY)
        assert (request.completion_ids, request.finish_reason) == (expected_ids(prompt), "length")


@pytest.mark.parametrize("budget", [1, 5, 16, 33, 2048])
def test_all_prompts_at_once_give_the_oracles_ids_at_any_chunk_size(budget: int) -> None:
    engine = fp32_engine(max_num_batched_tokens=budget)
    requests = [engine.add_request(prompt, GREEDY) for prompt in PROMPTS]
    run_all(engine)
    assert [request.completion_ids for request in requests] == [expected_ids(prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("num_blocks", [FULL_BLOCKS, FULL_BLOCKS + 3, 2 * FULL_BLOCKS])
@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_requests_that_were_preempted_give_the_oracles_ids(num_blocks: int, enable_prefix_caching: bool) -> None:
    engine = fp32_engine(num_blocks=num_blocks, max_num_batched_tokens=40, enable_prefix_caching=enable_prefix_caching)
    requests = [engine.add_request(prompt, GREEDY) for prompt in PROMPTS]
    run_all(engine)
    assert [request.completion_ids for request in requests] == [expected_ids(prompt) for prompt in PROMPTS]
    assert sum(request.num_preemptions for request in requests) > 0, "the cache was large enough for all"


def test_a_preempted_request_computes_only_what_others_took(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sizes = fp32_engine(num_blocks=FULL_BLOCKS, max_num_batched_tokens=CONTEXT), []
    run_batch = engine.runner.run
    monkeypatch.setattr(engine.runner, "run", lambda batch: (sizes.append(len(batch.input_ids)), run_batch(batch))[1])
    first, second = (engine.add_request(prompt_of(length), GREEDY) for length in (24, 40))  # 3 and 4 blocks of 6
    run_all(engine)
    assert (first.num_preemptions, second.num_preemptions) == (0, 1)
    assert sum(sizes) == 24 + 40 + 2 * (NUM_TOKENS - 1), "every token was computed once"


def test_what_a_preempted_request_computes_again_is_found_by_others() -> None:
    engine, prompt = fp32_engine(num_blocks=FULL_BLOCKS), prompt_of(24)
    engine.add_request(prompt_of(64), GREEDY)  # takes all blocks in the end
    preempted = engine.add_request(prompt, GREEDY)
    run_all(engine)
    assert preempted.num_preemptions > 0
    assert run(engine, prompt, GREEDY).num_cached_tokens == 16


def test_a_prompt_that_was_served_before_is_found_and_its_last_token_computed() -> None:
    engine, prompt = fp32_engine(), prompt_of(48)
    first, second = run(engine, prompt, GREEDY), run(engine, prompt, GREEDY)
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 32)
    assert first.completion_ids == second.completion_ids == expected_ids(prompt)


def test_a_prompt_that_was_served_before_is_computed_anew_once_prefixes_are_forgotten() -> None:
    engine, prompt = fp32_engine(), prompt_of(48)
    run(engine, prompt, GREEDY)
    engine.forget_prefixes()
    again = run(engine, prompt, GREEDY)
    assert again.num_cached_tokens == 0 and again.completion_ids == expected_ids(prompt)


def test_the_answer_is_found_by_the_next_turn_too() -> None:
    engine, prompt = fp32_engine(), prompt_of(49)
    first = run(engine, prompt, GREEDY)
    next_turn = (*prompt, *first.completion_ids, 3, 4)
    assert run(engine, next_turn, replace(GREEDY, max_tokens=2)).num_cached_tokens == 64  # 49 + 19 are computed


def test_requests_with_another_salt_or_without_caching_share_nothing() -> None:
    engine, prompt = fp32_engine(), prompt_of(48)
    for salt, num_cached in (("one", 0), ("another", 0), ("", 0), ("one", 32)):
        request = engine.add_request(prompt, GREEDY, RequestOptions(cache_salt=salt))
        run_all(engine)
        assert request.num_cached_tokens == num_cached
    engine = fp32_engine(enable_prefix_caching=False)
    assert [run(engine, prompt, GREEDY).num_cached_tokens for _ in range(2)] == [0, 0]


SAMPLED = SamplingParams(temperature=0.8, top_p=0.9, top_k=20, max_tokens=NUM_TOKENS, seed=7)
FORBIDDING = replace(
    SAMPLED,
    seed=13,
    no_repeat_ngram_size=6,
    bad_words_ids=((1, 2), (2, 2), (3, 1, 0)),
    begin_suppress_tokens=(0, 1),
    suppress_tokens=(7,),
    min_length=30,
)


FEW = worlds.NUM_FEW  # tokens of the vocabulary: prompt lookup is often right


@pytest.mark.parametrize(
    ("drafting", "num_valid", "settings"),
    [
        ("off", None, {"max_num_batched_tokens": 7}),
        ("off", FEW, {"num_blocks": FULL_BLOCKS, "max_num_batched_tokens": 30}),
        ("prompt-lookup", None, {}),
        ("prompt-lookup", FEW, {"num_blocks": FULL_BLOCKS, "max_num_batched_tokens": 30}),
        ("same", FEW, {"max_num_batched_tokens": 50}),
        ("same", None, {"num_blocks": FULL_BLOCKS}),
        ("near", None, {"num_blocks": FULL_BLOCKS}),
        ("other", FEW, {}),
    ],
)
@pytest.mark.parametrize("params", [SAMPLED, FORBIDDING], ids=["cut", "forbidding"])
def test_a_seeded_sample_is_the_same_however_it_is_computed(
    drafting: str, num_valid: int | None, settings: dict, params: SamplingParams
) -> None:
    some = PROMPTS[::5] + PROMPTS[-4:]
    alone = [run(fp32_engine(num_valid=num_valid), prompt, params).completion_ids for prompt in some]
    engine = fp32_engine(drafting, num_valid, **settings)
    for _ in range(2):  # the second time they find their prompts
        requests = [engine.add_request(prompt, params) for prompt in some]
        run_all(engine)
        assert [request.completion_ids for request in requests] == alone
    if "num_blocks" in settings:
        assert sum(request.num_preemptions for request in requests) > 0
    else:
        assert sum(request.num_cached_tokens for request in requests) > 0
    assert drafting == "off" or engine.speculation.num_drafted > 0
    assert drafting in ("off", "other") or engine.speculation.num_accepted > 0


def test_without_a_seed_no_two_samples_are_alike() -> None:
    engine = fp32_engine()
    requests = [engine.add_request(prompt_of(16), replace(SAMPLED, seed=None)) for _ in range(4)]
    run_all(engine)
    assert len({tuple(request.completion_ids) for request in requests}) == 4


NUM_SAMPLES = 800
LIMIT = 54.1  # chi-square of 26 degrees of freedom exceeds it once in a thousand
TEMPERATURE = 4.0
TRIPLES = tuple(product(range(3), repeat=3))
# All of them one after another, so that prompt lookup always has a draft; NTK's alpha is 3 from 25 tokens on.
ALL_TRIPLES = tuple(map(int, "00010020110120210221112122200"))


def triple_chances(temperature: float) -> list[float]:
    """The oracle's chance of each three tokens behind ALL_TRIPLES, where there are only the tokens 0, 1, 2."""
    chances = []
    for triple in TRIPLES:
        ids = [*ALL_TRIPLES, *triple[:-1]]
        logits = naive_logits(FP32.config, FP32.weights, ids, prompt_length=len(ALL_TRIPLES))[-3:, :3]
        rows = (logits / temperature).softmax(-1)
        chances.append(float(torch.stack([rows[place, token] for place, token in enumerate(triple)]).prod()))
    return chances


def chi_square(requests: list[Request], temperature: float) -> float:
    counts = Counter(tuple(request.completion_ids[:3]) for request in requests)
    expected = [len(requests) * chance for chance in triple_chances(temperature)]
    return sum((counts[triple] - usual) ** 2 / usual for triple, usual in zip(TRIPLES, expected, strict=True))


@pytest.mark.parametrize("drafting", ["off", "prompt-lookup", "same"])
def test_samples_have_the_oracles_distribution_with_and_without_speculation(drafting: str) -> None:
    engine = fp32_engine(drafting, num_valid=3, max_num_seqs=128)
    params = SamplingParams(temperature=TEMPERATURE, max_tokens=5)
    requests = [engine.add_request(ALL_TRIPLES, replace(params, seed=seed)) for seed in range(NUM_SAMPLES)]
    run_all(engine)
    assert drafting == "off" or engine.speculation.num_accepted > NUM_SAMPLES / 5
    assert min(triple_chances(TEMPERATURE)) * NUM_SAMPLES >= 5, "chi-square needs so many"
    assert chi_square(requests, TEMPERATURE) < LIMIT
    assert chi_square(requests, 0.75 * TEMPERATURE) > LIMIT, "the test would not see another temperature"


def test_seeds_are_independent_of_their_neighbours() -> None:
    """Seeds 0, 1, 2, ... as people give them: the first tokens of neighbours are no more alike than chance has it."""
    engine = fp32_engine(num_valid=3, max_num_seqs=128)
    params = SamplingParams(temperature=TEMPERATURE, max_tokens=1)
    requests = [engine.add_request(ALL_TRIPLES, replace(params, seed=seed)) for seed in range(NUM_SAMPLES)]
    run_all(engine)
    tokens = np.array([request.completion_ids[0] for request in requests])
    chances = np.bincount(tokens) / len(tokens)
    expected = float((chances**2).sum())
    for distance in (1, 2, 64):
        share = float((tokens[:-distance] == tokens[distance:]).mean())
        assert abs(share - expected) < 4 * (expected * (1 - expected) / len(tokens)) ** 0.5


def test_greedy_children_all_give_the_oracles_ids_and_compute_the_prompt_once() -> None:
    engine, prompt = fp32_engine(max_num_batched_tokens=30), prompt_of(64)
    children = engine.add_requests(prompt, replace(GREEDY, n=4))
    run_all(engine)
    assert [child.completion_ids for child in children] == [expected_ids(prompt)] * 4
    assert [child.num_cached_tokens for child in children] == [0, 48, 48, 48]


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_sampled_children_differ_and_can_be_had_again(enable_prefix_caching: bool) -> None:
    prompt, found = prompt_of(49), []
    for settings in ({}, {"num_blocks": FULL_BLOCKS, "max_num_batched_tokens": 20}):
        engine = fp32_engine(enable_prefix_caching=enable_prefix_caching, **settings)
        children = engine.add_requests(prompt, replace(SAMPLED, n=3))
        run_all(engine)
        assert children[1].num_cached_tokens == 48, "children share a prompt even where others do not"
        found.append([child.completion_ids for child in children])
    assert found[0] == found[1] and len(set(map(tuple, found[0]))) == 3
    assert found[0][0] == run(fp32_engine(), prompt, SAMPLED).completion_ids, "the first is the only one of n = 1"


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_children_go_on_when_the_first_is_aborted_before_its_prompt_is_computed(num_steps: int) -> None:
    engine, prompt = fp32_engine(max_num_batched_tokens=20), prompt_of(64)
    children = engine.add_requests(prompt, replace(GREEDY, n=3))
    for _ in range(num_steps):
        engine.step()
    engine.finish(children[0])
    run_all(engine)
    assert [child.finish_reason for child in children] == ["abort", "length", "length"]
    assert children[1].completion_ids == children[2].completion_ids == expected_ids(prompt)


def test_the_smaller_priority_is_served_first_and_preempted_last() -> None:
    engine = fp32_engine(max_num_seqs=1)
    later, sooner = (engine.add_request(prompt_of(16), replace(GREEDY, priority=one)) for one in (1, 0))
    engine.step()
    assert (len(later.completion_ids), len(sooner.completion_ids)) == (0, 1)
    run_all(engine)
    engine = fp32_engine(num_blocks=FULL_BLOCKS)
    cheap, dear = (engine.add_request(prompt_of(40), replace(GREEDY, priority=one)) for one in (1, -1))
    run_all(engine)
    assert cheap.num_preemptions > 0 == dear.num_preemptions
    assert cheap.completion_ids == dear.completion_ids == expected_ids(prompt_of(40))


def test_a_long_prompt_stalls_nobody_who_decodes() -> None:
    engine = fp32_engine(max_num_batched_tokens=8)
    decoding = engine.add_request(prompt_of(2), replace(GREEDY, priority=1))
    engine.step()
    prefilling = engine.add_request(prompt_of(64), replace(GREEDY, priority=0))
    for num_steps in range(1, 10):
        engine.step()
        assert len(decoding.completion_ids) == 1 + num_steps
        assert prefilling.num_computed_tokens == 7 * num_steps
    run_all(engine)


ENDED = prompt_of(16)
# The place of a token in the oracle's answer that does not come before it, and that token.
PLACE = next(i for i, token in enumerate(expected_ids(ENDED)) if i >= 3 and token not in expected_ids(ENDED)[:i])
STOP = expected_ids(ENDED)[PLACE]


@pytest.mark.parametrize("drafting", ["off", "same"])
def test_a_stop_token_ends_a_completion_whether_it_is_the_models_or_the_callers(drafting: str) -> None:
    by_model = run(fp32_engine(drafting), ENDED, GREEDY, [STOP])
    by_caller = run(fp32_engine(drafting), ENDED, replace(GREEDY, stop_token_ids=(STOP,), ignore_eos=True))
    for request in (by_model, by_caller):
        assert (request.completion_ids, request.finish_reason) == (expected_ids(ENDED)[: PLACE + 1], "stop")


def test_ignore_eos_goes_on_after_the_models_stop_tokens() -> None:
    request = run(fp32_engine(), ENDED, replace(GREEDY, ignore_eos=True), [STOP])
    assert (request.completion_ids, request.finish_reason) == (expected_ids(ENDED), "length")


@pytest.mark.parametrize("drafting", ["off", "same"])
def test_no_stop_token_comes_before_min_tokens(drafting: str) -> None:
    request = run(fp32_engine(drafting), ENDED, replace(GREEDY, min_tokens=PLACE + 2), [STOP])
    assert request.completion_ids[:PLACE] == expected_ids(ENDED)[:PLACE]
    assert len(request.completion_ids) >= PLACE + 2 and STOP not in request.completion_ids[: PLACE + 2]


@pytest.mark.parametrize("drafting", ["off", "prompt-lookup", "same"])
def test_a_completion_ends_where_the_context_does(drafting: str) -> None:
    prompt = prompt_of(60)
    request = run(fp32_engine(drafting, max_model_len=64), prompt, replace(GREEDY, min_tokens=9))
    assert (request.completion_ids, request.finish_reason) == (expected_ids(prompt)[:4], "length")


@pytest.mark.parametrize("drafting", ["off", "same"])
def test_the_outputs_of_the_steps_are_the_completions(drafting: str) -> None:
    engine = fp32_engine(drafting, max_num_batched_tokens=40)
    requests = [engine.add_request(prompt_of(length), replace(GREEDY, logprobs=1)) for length in (2, 40)]
    seen = {request.request_id: ([], []) for request in requests}
    num_at_once = 0
    while engine.has_unfinished:
        for output in engine.step():
            token_ids, logprobs = seen[output.request.request_id]
            token_ids += output.token_ids
            logprobs += output.logprobs
            num_at_once = max(num_at_once, len(output.token_ids))
            assert output.finish_reason == output.request.finish_reason
    assert [seen[request.request_id] for request in requests] == [
        (request.completion_ids, request.logprobs) for request in requests
    ]
    assert [request.completion_ids for request in requests] == [expected_ids(prompt_of(length)) for length in (2, 40)]
    assert num_at_once > 5 if drafting == "same" else num_at_once == 1


def test_a_finished_request_cannot_be_aborted() -> None:
    engine = fp32_engine()
    request = run(engine, ENDED, GREEDY)
    engine.finish(request)
    assert request.finish_reason == "length"


@pytest.mark.parametrize("drafting", ["off", "same"])
def test_observers_are_told_what_every_step_did_and_how_long_it_took(drafting: str) -> None:
    engine = fp32_engine(drafting, max_num_batched_tokens=40)
    told: list[StepStats] = []
    engine.observers.append(told.append)
    sizes, run_batch = [], engine.runner.run
    engine.runner.run = lambda batch: (sizes.append(len(batch.input_ids)), run_batch(batch))[1]
    prompts = [prompt_of(length) for length in (2, 40)]
    requests = [engine.add_request(prompt, replace(GREEDY, max_tokens=12)) for prompt in prompts]
    while engine.has_unfinished:
        start_s, num_before = time.perf_counter(), sum(len(request.completion_ids) for request in requests)
        engine.step()
        assert 0 < told[-1].seconds <= time.perf_counter() - start_s
        assert told[-1].num_new_tokens == sum(len(request.completion_ids) for request in requests) - num_before
    assert [stats.num_tokens for stats in told] == sizes
    assert sum(stats.num_prompt_tokens for stats in told) == 42
    assert all(0 <= stats.num_accepted <= stats.num_drafted for stats in told)
    num_drafted, num_accepted = engine.speculation.num_drafted, engine.speculation.num_accepted
    assert num_drafted == sum(stats.num_drafted for stats in told) and (num_drafted > 0) == (drafting == "same")
    assert num_accepted == sum(stats.num_accepted for stats in told)
    assert min(min(stats.schedule_s, stats.forward_s, stats.sample_s, stats.commit_s) for stats in told) > 0
