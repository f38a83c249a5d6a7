"""A draft model drafts as well as it knows the model, from a cache of its own, and changes nothing but the time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qwartet.engine.engine import BLOCK_SIZE, Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import SettingError
from tests.engine import worlds
from tests.engine.schedules import FixedCost, check_nothing_is_left, make_engine
from tests.engine.worlds import CONTEXT, NUM_TOKENS, answer
from tests.reference.tiny_model import tiny_network, tiny_weights

FP32 = worlds.world("fp32")
FULL_BLOCKS = CONTEXT // BLOCK_SIZE
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.9, seed=11, max_tokens=NUM_TOKENS)
PROMPTS = [p for p in worlds.prompts("fp32") if answer("fp32", p, "greedy").num_certain == NUM_TOKENS]


def serve(engine: Engine, params: SamplingParams = GREEDY, prompts=PROMPTS) -> list[Request]:
    requests = [engine.add_request(prompt, params) for prompt in prompts]
    while engine.has_unfinished:
        engine.step()
        engine.block_manager.check_integrity()
    check_nothing_is_left(engine)
    return requests


def check_oracle(requests: list[Request]) -> None:
    for request in requests:
        assert request.completion_ids == list(answer("fp32", tuple(request.prompt_ids), "greedy").token_ids)


def assisted(draft: str, **settings: int | bool) -> Engine:
    return make_engine("fp32", EngineConfig(**settings), draft, 0.0, None)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
@pytest.mark.parametrize("settings", [{}, {"max_num_batched_tokens": 80}, {"num_blocks": FULL_BLOCKS}])
def test_the_model_itself_drafts_right_always(params: SamplingParams, settings: dict) -> None:
    """Greedy or drawn: also where blocks are shared, and behind a preemption, when its keys and values are lost."""
    engine = assisted("same", **settings)
    requests = serve(engine, params)
    assert engine.speculation.num_accepted == engine.speculation.num_drafted > 10 * len(PROMPTS)
    if params is GREEDY:
        check_oracle(requests)
    assert "num_blocks" not in settings or sum(request.num_preemptions for request in requests) > 0
    assert sum(request.num_cached_tokens for request in requests) > 0


def test_the_better_it_knows_the_model_the_more_drafts_are_right() -> None:
    shares = []
    for draft in ("other", "near", "same"):
        engine = assisted(draft)
        check_oracle(serve(engine))
        shares.append(engine.speculation.num_accepted / engine.speculation.num_drafted)
    assert shares[0] < 0.05 < 0.15 < shares[1] < shares[2] == 1.0


def test_drafts_that_are_right_save_steps() -> None:
    def num_steps(engine: Engine) -> int:
        engine.add_request(PROMPTS[4], GREEDY)
        count = 0
        while engine.has_unfinished:
            engine.step()
            count += 1
        return count

    assert num_steps(make_engine("fp32", EngineConfig(speculation="off"), "same", 0.0, None)) == NUM_TOKENS
    assert num_steps(assisted("same")) <= 4


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (3, [1, 3, 16]),  # the prompt; two right drafts and the other token; all the rest
        (1, [1, 1, 1, 16, 1]),  # not one is right: the next step is made without drafts
    ],
)
def test_after_a_wrong_draft_it_goes_on_from_the_right_token(place: int, expected: list[int]) -> None:
    """One token of the answer is another than the model's own choice; what follows the model drafts again."""
    engine, prompt = assisted("same"), PROMPTS[4]

    def forbid_the_best(logits: Tensor, token_ids: list[int]) -> Tensor:
        is_there = len(token_ids) == len(prompt) + place
        return logits.index_fill(0, logits.argmax(), -torch.inf) if is_there else logits

    request = engine.add_request(prompt, GREEDY, RequestOptions(logits_processors=(forbid_the_best,)))
    num_tokens = []
    while engine.has_unfinished:
        num_tokens += [len(output.token_ids) for output in engine.step()]
    assert request.completion_ids[place] != answer("fp32", prompt, "greedy").token_ids[place]
    assert num_tokens == expected


def test_greedy_and_drawn_requests_are_drafted_together() -> None:
    engine = assisted("same")
    greedy = [engine.add_request(prompt, GREEDY) for prompt in PROMPTS[:4]]
    drawn = [engine.add_request(prompt, SAMPLED) for prompt in PROMPTS[:4]]
    while engine.has_unfinished:
        engine.step()
    check_oracle(greedy)
    alone = serve(make_engine("fp32", EngineConfig(speculation="off"), "off", 0.0, None), SAMPLED, PROMPTS[:4])
    assert [request.completion_ids for request in drawn] == [request.completion_ids for request in alone]
    assert engine.speculation.num_accepted == engine.speculation.num_drafted > 0


@pytest.mark.parametrize("budget", [2, 7, 20])
def test_a_prompt_longer_than_a_chunk_is_caught_up_with_in_chunks(budget: int) -> None:
    engine, prompt = assisted("same", max_num_batched_tokens=budget), next(p for p in PROMPTS if len(p) == 64)
    run, sizes = engine.speculation.drafter._runner.run, []
    engine.speculation.drafter._runner.run = lambda batch: (sizes.append(len(batch.input_ids)), run(batch))[1]
    check_oracle(serve(engine, prompts=[prompt]))
    assert max(sizes) <= budget and engine.speculation.num_accepted == engine.speculation.num_drafted
    assert engine.speculation.num_drafted > 0 or budget == 2


def test_a_request_leaves_the_draft_models_context_and_goes_on_without_it() -> None:
    weights = tiny_weights(max_position_embeddings=64)
    draft = tiny_network(weights, max_position_embeddings=64)  # the same weights, a shorter context
    engine = Engine(FP32.network, draft_model=draft)
    engine.speculation.cost = FixedCost(0.0)
    lengths = (48, 49, 64)
    requests = serve(engine, prompts=[next(p for p in PROMPTS if len(p) == length) for length in lengths])
    check_oracle(requests)
    assert max(request.num_tokens for request in requests) == 64 + NUM_TOKENS
    assert engine.speculation.num_accepted == engine.speculation.num_drafted > 0


def test_a_draft_model_of_fewer_tokens_is_refused_with_the_numbers() -> None:
    draft = tiny_network(tiny_weights(vocab_size=72), vocab_size=72)
    with pytest.raises(SettingError, match="the draft model has 72 tokens, but the model has 80; use one with"):
        Engine(FP32.network, draft_model=draft)


def test_padding_rows_that_only_the_model_has_are_no_reason_to_refuse_and_never_drafted_from() -> None:
    draft = tiny_network(tiny_weights(vocab_size=72), vocab_size=72)
    engine = Engine(FP32.network, draft_model=draft, num_valid_tokens=72)
    engine.speculation.cost = FixedCost(0.0)
    with_padding, without = (75, 3, 4), (5, 3, 4)
    serve(engine, prompts=[with_padding])
    assert engine.speculation.num_drafted == 0
    serve(engine, prompts=[without])
    assert engine.speculation.num_drafted > 0


def test_speculation_off_is_off_with_a_draft_model_too() -> None:
    engine = make_engine("fp32", EngineConfig(speculation="off"), "same", 0.0, None)
    check_oracle(serve(engine))
    assert engine.speculation.num_drafted == 0


@pytest.mark.parametrize("name", worlds.NAMES)
def test_its_cache_is_of_the_same_kind(name: str) -> None:
    kind = worlds.world(name).kv_cache_dtype
    engine = make_engine(name, EngineConfig(kv_cache_dtype=kind), "same", 0.0, None)
    assert engine.speculation.drafter._runner.cache.layers[0].bits == engine.runner.cache.layers[0].bits
    serve(engine, prompts=worlds.prompts(name)[:8])
    if worlds.world(name).is_native:  # the same bits in every batch
        assert engine.speculation.num_accepted == engine.speculation.num_drafted > 0


def test_a_draft_model_whose_numbers_are_not_finite_drafts_wrong_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = assisted("same")
    run = engine.speculation.drafter._runner.run
    monkeypatch.setattr(engine.speculation.drafter._runner, "run", lambda batch: run(batch) * float("nan"))
    check_oracle(serve(engine))
    greedy = serve(engine, replace(SAMPLED), PROMPTS[:3])
    assert [request.finish_reason for request in greedy] == ["length"] * 3
