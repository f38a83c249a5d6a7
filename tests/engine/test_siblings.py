"""Several completions of a prompt: whatever becomes of the first, the others have all that is known of the prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwartet import LLM
from qwartet.engine import sampler
from qwartet.engine.engine import Engine
from qwartet.engine.request import Request
from qwartet.engine.sampler import Sampled
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import NotFiniteError
from tests.engine import worlds
from tests.engine.schedules import check_nothing_is_left
from tests.engine.test_engine import FULL_BLOCKS, GREEDY, expected_ids, fp32_engine, prompt_of, run_all

PROMPT = prompt_of(64)
ASKED = replace(GREEDY, n=4, prompt_logprobs=1)


def begun(num_steps: int, params: SamplingParams = ASKED, **settings: int | bool) -> tuple[Engine, list[Request]]:
    engine = fp32_engine(**settings)
    siblings = engine.add_requests(PROMPT, params)
    for _ in range(num_steps):
        engine.step()
    return engine, siblings


def check_whole(request: Request) -> None:
    """A completion as if it had been asked for alone."""
    assert request.finish_reason in ("length", "stop")
    assert request.completion_ids == expected_ids(PROMPT)[: len(request.completion_ids)]
    expected = worlds.prompt_logprobs("fp32", PROMPT, None)
    assert request.prompt_logprobs[0] is None and len(request.prompt_logprobs) == len(PROMPT)
    for place, logprob in enumerate(expected, 1):
        one = request.prompt_logprobs[place]
        assert one is not None and one.token_id == PROMPT[place] and len(one.top) == 1
        assert abs(one.logprob - logprob) < 1e-3


@pytest.mark.parametrize("budget", [7, 20, 63, 64, 65])
@pytest.mark.parametrize("enable_prefix_caching", [True, False])
@pytest.mark.parametrize("ended", [[0], [0, 1], [0, 2], [1], [1, 3], [0, 1, 2], [0, 1, 2, 3]])
def test_who_is_left_has_all_of_the_prompt(ended: list[int], budget: int, enable_prefix_caching: bool) -> None:
    settings = {"max_num_batched_tokens": budget, "enable_prefix_caching": enable_prefix_caching}
    for num_steps in range(13):
        engine, siblings = begun(num_steps, **settings)
        for index in ended:
            engine.finish(siblings[index])
        run_all(engine)
        for index, request in enumerate(siblings):
            if index not in ended or request.finish_reason != "abort":
                check_whole(request)


@pytest.mark.parametrize("pause", [1, 3, 9])
def test_leaders_that_are_ended_one_after_the_other_leave_the_rest_to_the_next(pause: int) -> None:
    engine, siblings = begun(0, max_num_batched_tokens=7)
    for request in siblings[:-1]:
        for _ in range(pause):
            engine.step()
        engine.finish(request)
    run_all(engine)
    check_whole(siblings[-1])


def test_a_cache_that_is_too_small_for_all_loses_nothing_either() -> None:
    for num_steps in range(12):
        engine, siblings = begun(num_steps, max_num_batched_tokens=20, num_blocks=FULL_BLOCKS)
        engine.finish(siblings[0])
        run_all(engine)
        for request in siblings[1:]:
            check_whole(request)


def test_the_prompt_is_computed_by_one_of_those_that_are_left() -> None:
    engine, siblings = begun(1, replace(ASKED, prompt_logprobs=None), max_num_batched_tokens=20)
    engine.finish(siblings[0])
    engine.step()
    assert [request.num_computed_tokens > 0 for request in siblings] == [False, True, False, False]
    run_all(engine)
    assert [request.num_cached_tokens for request in siblings[2:]] == [48, 48]


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_siblings_of_one_that_fails_in_its_prompt_have_the_whole_of_it(
    monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    predict, num_calls = sampler.Sampler._predict_prompt, 0

    def failing(self: sampler.Sampler, hidden: object, result: Sampled) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == fails_at:
            result.error = NotFiniteError("as if the network had failed here")
        else:
            predict(self, hidden, result)

    monkeypatch.setattr(sampler.Sampler, "_predict_prompt", failing)
    engine, siblings = begun(0, max_num_batched_tokens=17)
    run_all(engine)
    assert siblings[0].finish_reason == "error"
    for request in siblings[1:]:
        check_whole(request)


def test_siblings_of_one_that_stops_first_have_the_whole_of_it() -> None:
    for max_tokens in (1, 2):
        engine, siblings = begun(0, replace(ASKED, max_tokens=max_tokens), max_num_batched_tokens=20)
        run_all(engine)
        for request in siblings:
            check_whole(request)


def test_nobody_keeps_who_has_ended() -> None:
    engine, siblings = begun(1, max_num_batched_tokens=20)
    engine.finish(siblings[0])
    assert siblings[0].children == [] and siblings[1].parent is None
    assert siblings[1].children == siblings[2:] and {request.parent for request in siblings[2:]} == {siblings[1]}
    for request in siblings[1:]:
        engine.finish(request)
    assert all(request.children == [] for request in siblings)
    check_nothing_is_left(engine)


def test_what_was_not_asked_of_the_prompt_is_told_to_no_sibling() -> None:
    llm = LLM(max_model_len=64)
    for asked, length in ((None, 0), (0, 3)):
        found = llm.generate([5, 6, 7], SamplingParams(max_tokens=1, n=3, prompt_logprobs=asked))
        assert [len(one.prompt_logprobs) for one in found] == [length] * 3
