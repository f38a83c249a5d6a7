"""What cannot be served is refused with its numbers; what breaks for a request ends it, a broken step ends all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from qwartet.engine.engine import BLOCK_SIZE, Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.structure import Structure
from qwartet.errors import (
    ContextWarning,
    EngineFailedError,
    NotFiniteError,
    OutOfMemoryError,
    RequestError,
    SettingError,
)
from tests.engine import worlds
from tests.engine.schedules import check_nothing_is_left, make_engine
from tests.engine.worlds import CONTEXT, NUM_TOKENS, answer

FP32 = worlds.world("fp32")
VOCAB_SIZE = FP32.config["vocab_size"]
FULL_BLOCKS = CONTEXT // BLOCK_SIZE
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
PROMPTS = [p for p in worlds.prompts("fp32") if answer("fp32", p, "greedy").num_certain == NUM_TOKENS]


def run_all(engine: Engine) -> None:
    while engine.has_unfinished:
        engine.step()
        engine.block_manager.check_integrity()
    check_nothing_is_left(engine)


def expected(index: int) -> list[int]:
    return list(answer("fp32", PROMPTS[index], "greedy").token_ids)


def one_block_bytes(num_models: int = 1) -> int:
    return num_models * BLOCK_SIZE * 2 * 2 * 2 * 16 * 4  # k and v, layers, heads, head_dim, fp32


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], "the prompt is empty; pass at least one token"),
        ([1] * CONTEXT, f"the prompt has {CONTEXT} tokens, but the context is {CONTEXT}; shorten"),
        ([1] * 1000, f"the prompt has 1000 tokens, but the context is {CONTEXT}; shorten"),
        ([1, VOCAB_SIZE], f"ids outside 0..{VOCAB_SIZE - 1}"),
        ([-1], f"ids outside 0..{VOCAB_SIZE - 1}"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_refused(ids: list[int], words: str) -> None:
    engine = Engine(FP32.network)
    with pytest.raises(RequestError, match=words):
        engine.add_requests(ids, replace(GREEDY, n=2))
    assert not engine.has_unfinished


def test_padding_in_front_counts_in_the_context() -> None:
    engine = Engine(FP32.network)
    with pytest.raises(RequestError, match=f"{CONTEXT} tokens, but the context is {CONTEXT}"):
        engine.add_request([1, 2], GREEDY, RequestOptions(first_position=CONTEXT - 2))
    request = engine.add_request([1, 2], GREEDY, RequestOptions(first_position=CONTEXT - 3))
    run_all(engine)
    assert (len(request.completion_ids), request.finish_reason) == (1, "length")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stop": ("x",)}, "stop strings need the model's tokenizer; use stop_token_ids"),
        ({"structure": Structure(json_object=True)}, "a structure needs the model's tokenizer"),
        (
            {"logit_bias": {3: 1.0, VOCAB_SIZE: 1.0}},
            f"logit_bias has token {VOCAB_SIZE}, but the vocabulary has {VOCAB_SIZE}",
        ),
    ],
)
def test_what_cannot_be_honoured_here_is_refused_before_anything_is_queued(changes: dict, words: str) -> None:
    engine = Engine(FP32.network)
    with pytest.raises(SettingError, match=words):
        engine.add_requests([1, 2], replace(GREEDY, n=2, **changes))
    assert not engine.has_unfinished


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_model_len": 1}, "max_model_len is 1; it must be a whole number from 2 to"),
        (
            {"max_model_len": CONTEXT + 1},
            f"max_model_len is {CONTEXT + 1}; with this model it must be between 2 and {CONTEXT}",
        ),
        ({"max_num_seqs": 0}, "max_num_seqs is 0; it must be"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens is 0; it must be"),
        (
            {"num_blocks": FULL_BLOCKS - 1},
            f"num_blocks is {FULL_BLOCKS - 1}, but a request of {CONTEXT} tokens needs {FULL_BLOCKS}; set",
        ),
        ({"kv_cache_dtype": "int2"}, "kv_cache_dtype is 'int2'; it must be one of auto, int8, int4"),
        ({"speculation": "draft"}, "speculation is 'draft'; it must be off or prompt-lookup"),
    ],
)
def test_a_setting_out_of_bounds_is_refused_with_its_bounds(settings: dict, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Engine(FP32.network, EngineConfig(**settings))


def test_the_cache_is_as_large_as_is_of_use_or_as_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FP32.network
    assert Engine(network, EngineConfig(max_num_seqs=3)).block_manager.num_blocks == 3 * FULL_BLOCKS
    memory = 10 * one_block_bytes()  # of which 0.8 may be taken
    monkeypatch.setattr("qwartet.engine.engine.available_bytes", lambda device: memory)
    assert Engine(network).block_manager.num_blocks == 8
    memory = 4 * one_block_bytes()
    with pytest.raises(OutOfMemoryError, match=f"set max_model_len to {3 * BLOCK_SIZE} or less"):
        Engine(network, EngineConfig(max_model_len=3 * BLOCK_SIZE + 1))
    assert Engine(network, EngineConfig(max_model_len=48)).block_manager.num_blocks == 3
    with pytest.warns(ContextWarning, match=f"the context is {3 * BLOCK_SIZE} tokens instead of {CONTEXT}"):
        assert Engine(network).max_model_len == 3 * BLOCK_SIZE


def test_the_cache_of_a_draft_model_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwartet.engine.engine.available_bytes", lambda device: 20 * one_block_bytes())
    assert Engine(FP32.network).block_manager.num_blocks == 16
    engine = Engine(FP32.network, draft_model=FP32.drafts["near"])
    assert engine.block_manager.num_blocks == 8
    assert engine.speculation.drafter._runner.cache.num_blocks == 8


def raise_at(place: int, num_prompt: int):
    def process(logits, token_ids):
        if len(token_ids) == num_prompt + place:
            raise KeyError("of this processor")
        return logits

    return process


@pytest.mark.parametrize("drafting", ["off", "prompt-lookup", "same"])
@pytest.mark.parametrize("place", [0, 5])
def test_a_processor_that_raises_ends_its_request_and_others_go_on(drafting: str, place: int) -> None:
    engine = make_engine("fp32", EngineConfig(max_num_batched_tokens=60), drafting, 0.0, None)
    processors = (raise_at(place, len(PROMPTS[4])),)
    broken = engine.add_request(PROMPTS[4], GREEDY, RequestOptions(logits_processors=processors))
    others = [engine.add_request(PROMPTS[index], GREEDY) for index in (0, 4, 9)]
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    check_nothing_is_left(engine)
    assert broken.finish_reason == "error" and isinstance(broken.error, KeyError)
    assert broken.completion_ids == expected(4)[: len(broken.completion_ids)]
    assert len(broken.completion_ids) == place if drafting == "off" else len(broken.completion_ids) <= place
    assert [one.completion_ids for one in others] == [expected(index) for index in (0, 4, 9)]
    last = [output for output in outputs if output.request is broken][-1]
    assert (last.token_ids, last.text, last.finish_reason) == ([], "", "error")


def test_no_draft_of_a_step_that_failed_counts_as_right() -> None:
    engine = make_engine("fp32", EngineConfig(), "same", 0.0, None)
    prompt = PROMPTS[4]
    engine.add_request(prompt, GREEDY, RequestOptions(logits_processors=(raise_at(1, len(prompt)),)))
    run_all(engine)
    assert engine.speculation.num_drafted > 0 == engine.speculation.num_accepted


class OnlyEven:
    """A TokenConstraint: even ids, and so many of them."""

    def __init__(self, num_left: int) -> None:
        self.num_left = num_left

    @property
    def is_finished(self) -> bool:
        return self.num_left == 0

    def mask(self, num_ids: int | None = None):
        return np.arange(VOCAB_SIZE)[:num_ids] % 2 == 0

    def accept(self, token_id: int) -> None:
        assert token_id % 2 == 0 and self.num_left > 0
        self.num_left -= 1

    def count_valid(self, token_ids: Sequence[int]) -> int:
        odd = [place for place, token_id in enumerate(token_ids) if token_id % 2]
        return min([*odd, len(token_ids), self.num_left])

    def fork(self) -> OnlyEven:
        return type(self)(self.num_left)


class Cautious(OnlyEven):
    """The same, which lets one draft through at most: the draft model has computed more than it is asked again."""

    def count_valid(self, token_ids: Sequence[int]) -> int:
        return min(super().count_valid(token_ids), 1)


@pytest.mark.parametrize("constraint", [OnlyEven, Cautious])
@pytest.mark.parametrize("drafting", ["off", "prompt-lookup", "same"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_holds_for_every_child_and_ends_it(
    drafting: str, temperature: float, constraint: type[OnlyEven]
) -> None:
    engine = make_engine("fp32", EngineConfig(), drafting, 0.0, None)
    params = replace(GREEDY, n=3, temperature=temperature, seed=5)
    children = engine.add_requests(PROMPTS[6], params, RequestOptions(constraint=constraint(9)))
    run_all(engine)
    for child in children:
        assert child.finish_reason == "stop" and len(child.completion_ids) == 9
        assert not any(token_id % 2 for token_id in child.completion_ids)
    num_texts = len({tuple(child.completion_ids) for child in children})
    assert num_texts == (3 if temperature else 1)


def test_a_row_that_is_not_finite_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("fp32", EngineConfig(), "off", 0.0, None)
    requests = [engine.add_request(PROMPTS[index], GREEDY) for index in (1, 4, 9)]
    for _ in range(3):
        engine.step()
    run = engine.runner.run

    def run_with_infinity(batch):
        hidden = run(batch)
        hidden[1, 3] = math.inf
        return hidden

    monkeypatch.setattr(engine.runner, "run", run_with_infinity)
    engine.step()
    monkeypatch.undo()
    assert requests[1].finish_reason == "error" and requests[1].completion_ids == expected(4)[:3]
    assert isinstance(requests[1].error, NotFiniteError)
    assert str(requests[1].error).startswith(f"token {len(PROMPTS[4]) + 3} of request 1: the logits are not finite")
    run_all(engine)
    assert [requests[0].completion_ids, requests[2].completion_ids] == [expected(1), expected(9)]


@pytest.mark.parametrize("name", worlds.NAMES)
def test_a_token_of_damaged_weights_harms_nobody_else_and_its_blocks_can_be_used_again(name: str) -> None:
    here, damaged = worlds.world(name), 0
    weight = here.network.embedding.weight
    before = weight.data[damaged].clone()
    healthy = [prompt for prompt in worlds.prompts(name) if damaged not in prompt]
    healthy = [p for p in healthy if damaged not in answer(name, p, "greedy").token_ids and len(p) > 1][:4]
    engine = make_engine(
        name, EngineConfig(num_blocks=2 * FULL_BLOCKS, kv_cache_dtype=here.kv_cache_dtype), "off", 0, None
    )
    try:
        with torch.no_grad():
            weight[damaged] = math.nan
        broken = [engine.add_request([damaged] * 40, GREEDY) for _ in range(2)]
        requests = [engine.add_request(prompt, GREEDY) for prompt in healthy]
        run_all(engine)
    finally:
        with torch.no_grad():
            weight[damaged] = before
    assert [type(one.error) for one in broken] == [NotFiniteError] * 2
    for prompt, request in zip(healthy, requests, strict=True):
        right = answer(name, prompt, "greedy")
        assert request.finish_reason == "length"
        assert request.completion_ids[: right.num_certain] == list(right.token_ids[: right.num_certain])


def test_an_error_in_a_step_is_raised_there_and_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("fp32", EngineConfig(), "prompt-lookup", 0.0, None)
    requests = [engine.add_request(PROMPTS[index], GREEDY) for index in (4, 9)]
    engine.step()

    def fail(batch):
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(engine.runner, "run", fail)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        engine.step()
    monkeypatch.undo()
    for serve in (engine.step, lambda: engine.add_request(PROMPTS[0], GREEDY)):
        with pytest.raises(EngineFailedError, match="the engine stopped after an error: out of memory, say") as caught:
            serve()
        assert isinstance(caught.value.__cause__, RuntimeError)
    for request in requests:
        engine.finish(request)
    check_nothing_is_left(engine)
    assert [request.finish_reason for request in requests] == ["abort", "abort"]


@pytest.mark.parametrize("drafting", ["off", "prompt-lookup", "same"])
def test_a_step_that_was_interrupted_is_made_again(drafting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in one answer is no error of the engine's: the others go on."""
    engine = make_engine("fp32", EngineConfig(max_num_batched_tokens=60, num_blocks=12), drafting, 0.0, None)
    requests = [engine.add_request(prompt, GREEDY) for prompt in PROMPTS]
    run, num_steps, num_interrupts = engine.runner.run, 0, 0

    def interrupted(batch):
        nonlocal num_steps
        num_steps += 1
        if num_steps % 3 == 0:
            raise KeyboardInterrupt
        return run(batch)

    monkeypatch.setattr(engine.runner, "run", interrupted)
    while engine.has_unfinished:
        try:
            engine.step()
        except KeyboardInterrupt:
            num_interrupts += 1
        engine.block_manager.check_integrity()
    check_nothing_is_left(engine)
    assert num_interrupts > 10
    assert [request.completion_ids for request in requests] == [expected(index) for index in range(len(PROMPTS))]
