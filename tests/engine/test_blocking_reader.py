"""What a waiting thread gets of its prompts: a list for each step, and nothing that it has dropped."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import chain

import pytest

from qwartet import LLM
from qwartet.engine.blocking_reader import BlockingReader
from qwartet.engine.engine_thread import EngineThread, Prompt
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.step_stats import StepStats
from qwartet.errors import EngineFailedError

PROMPTS = [[5, 9, 70, 11 + number] for number in range(5)]


@pytest.fixture
def llm() -> Iterator[LLM]:
    with LLM(device="cpu", max_num_seqs=3, speculation="off") as model:
        yield model


def prompts(max_tokens: int) -> list[Prompt]:
    return [Prompt(ids, SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)) for ids in PROMPTS]


def test_a_step_is_one_list_and_the_lists_join_to_what_is_iterated(llm: LLM) -> None:
    told: list[StepStats] = []
    llm.engine.observers.append(told.append)
    with BlockingReader(EngineThread.of(llm.engine)) as reader:
        reader.submit(prompts(4))
        steps = list(reader.steps())
    assert [len(step) for step in steps] == [one.num_requests for one in told]
    for wanted, [request] in enumerate(reader.requests):
        pieces = [added.token_ids for step in steps for number, added in step if number == wanted]
        assert list(chain(*pieces)) == request.completion_ids
    with BlockingReader(EngineThread.of(llm.engine)) as reader:
        reader.submit(prompts(4))
        assert [added.token_ids for added in reader] == [added.token_ids for step in steps for _, added in step]


def test_only_ends_gives_each_prompt_once_and_more_may_follow(llm: LLM) -> None:
    with BlockingReader(EngineThread.of(llm.engine), only_ends=True) as reader:
        steps = reader.steps()
        reader.submit(prompts(2))
        found = next(steps)
        reader.submit(prompts(3))
        found += [one for step in steps for one in step]
    assert sorted(number for number, _ in found) == list(range(10))
    assert all(added.finish_reason == "length" for _, added in found)


def test_a_prompt_that_is_forgotten_is_not_kept(llm: LLM) -> None:
    with BlockingReader(EngineThread.of(llm.engine), only_ends=True) as reader:
        reader.submit(prompts(2))
        done = {number: weakref.ref(added.request) for step in reader.steps() for number, added in step}
        reader.forget(1)
        gc.collect()
        assert [number for number, request in done.items() if request() is None] == [1]
        assert len(reader.requests) == 4


def test_what_is_left_early_is_ended_whatever_was_forgotten(llm: LLM) -> None:
    with BlockingReader(EngineThread.of(llm.engine), only_ends=True) as reader:
        reader.submit([*prompts(1), *prompts(1000)])
        [number, *_] = [number for number, _ in next(reader.steps())]
        reader.forget(number)
    assert not llm.engine.has_unfinished


def test_an_engine_that_fails_ends_the_reading(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with BlockingReader(EngineThread.of(llm.engine)) as reader:
        reader.submit(prompts(1000))
        steps = reader.steps()
        next(steps)
        monkeypatch.setattr(llm.engine.runner, "run", lambda batch: 1 / 0)
        with pytest.raises(EngineFailedError, match="division by zero"):
            list(steps)
