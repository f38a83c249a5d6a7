"""Memory that runs out while one request is prepared or served ends that request, and no other has another text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from qwartet import LLM
from qwartet.engine.engine import Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.structure import Structure
from qwartet.errors import OutOfMemoryError, is_out_of_memory
from tests.engine import worlds
from tests.engine.schedules import check_nothing_is_left, make_engine
from tests.engine.worlds import NUM_TOKENS, answer

GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
PROMPTS = [p for p in worlds.prompts("fp32") if answer("fp32", p, "greedy").num_certain == NUM_TOKENS]
TORCH_TEXT = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: {}: you tried to allocate 123 bytes."
ERRORS = [
    MemoryError(),
    MemoryError("qw_decoder_layers: out of memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(TORCH_TEXT.format("can't allocate memory")),
    RuntimeError(TORCH_TEXT.format("not enough memory")),
]
OTHERS = [RuntimeError("out of memory, say"), ValueError("can't allocate memory"), KeyError("MemoryError")]


def expected(index: int) -> list[int]:
    return list(answer("fp32", PROMPTS[index], "greedy").token_ids)


def run_all(engine: Engine) -> None:
    while engine.has_unfinished:
        engine.step()
        engine.block_manager.check_integrity()
    check_nothing_is_left(engine)


def failing(call: Callable[..., Any], error: Exception, is_bad: Callable[..., bool]) -> Callable[..., Any]:
    def wrapped(*arguments: Any) -> Any:
        if is_bad(*arguments):
            raise error
        return call(*arguments)

    return wrapped


def assert_ended_for_lack_of_memory(request: Request) -> None:
    assert request.finish_reason == "error" and isinstance(request.error, OutOfMemoryError)
    assert str(request.error).startswith("out of memory while ") and "; " in str(request.error)


def test_what_says_that_memory_ran_out_is_told_from_what_says_something_else() -> None:
    assert all(map(is_out_of_memory, ERRORS)) and not any(map(is_out_of_memory, OTHERS))


def test_torch_still_says_so_in_these_words() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("drafting", ["off", "prompt-lookup", "same"])
def test_the_largest_part_of_a_step_that_takes_too_much_is_left_out(
    monkeypatch: pytest.MonkeyPatch, drafting: str, error: Exception
) -> None:
    engine = make_engine("fp32", EngineConfig(), drafting, 0.0, None)
    others = [engine.add_request(PROMPTS[index], GREEDY) for index in (1, 4)]
    for _ in range(3):
        engine.step()
    large = engine.add_request([3, 1] * 40, GREEDY)
    monkeypatch.setattr(
        engine.runner, "run", failing(engine.runner.run, error, lambda batch: len(batch.input_ids) >= 80)
    )
    run_all(engine)
    assert_ended_for_lack_of_memory(large)
    assert [one.completion_ids for one in others] == [expected(1), expected(4)]
    request = engine.add_request(PROMPTS[6], GREEDY)
    run_all(engine)
    assert request.completion_ids == expected(6)


def test_steps_that_fail_now_and_then_end_one_request_each_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("fp32", EngineConfig(max_num_batched_tokens=60, num_blocks=24), "prompt-lookup", 0.0, None)
    requests = [engine.add_request(prompt, GREEDY) for prompt in PROMPTS]
    counter = iter(range(10**6))
    monkeypatch.setattr(
        engine.runner, "run", failing(engine.runner.run, MemoryError(), lambda batch: next(counter) % 6 == 5)
    )
    run_all(engine)
    ended = [request for request in requests if request.finish_reason == "error"]
    assert 0 < len(ended) < len(requests)
    for request, index in zip(requests, range(len(PROMPTS)), strict=True):
        if request in ended:
            assert_ended_for_lack_of_memory(request)
            assert request.completion_ids == expected(index)[: len(request.completion_ids)]
        else:
            assert request.completion_ids == expected(index)


def test_a_draft_model_that_gets_no_memory_ends_no_more_than_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("fp32", EngineConfig(), "same", 0.0, None)
    requests = [engine.add_request(PROMPTS[index], GREEDY) for index in (1, 4, 9)]
    drafter, counter = engine.speculation.drafter, iter(range(10**6))
    monkeypatch.setattr(drafter, "_next_ids", failing(drafter._next_ids, MemoryError(), lambda *_: next(counter) == 4))
    run_all(engine)
    assert sorted(request.finish_reason for request in requests) == ["error", "length", "length"]
    for request, index in zip(requests, (1, 4, 9), strict=True):
        assert request.completion_ids == expected(index)[: len(request.completion_ids)]


@pytest.mark.parametrize(
    "settings", [{}, {"logprobs": 2}, {"temperature": 1.1, "seed": 3}, {"repetition_penalty": 1.2}], ids=str
)
def test_rows_that_are_too_many_to_be_chosen_at_once_are_chosen_one_by_one(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    params = replace(GREEDY, **settings)

    def serve(most: int) -> list[Request]:
        engine = make_engine("fp32", EngineConfig(), "prompt-lookup", 0.0, None)
        for name in ("_take_largest", "_choose"):
            call = getattr(engine.sampler, name)
            monkeypatch.setattr(
                engine.sampler, name, failing(call, MemoryError(), lambda hidden, rows: len(rows) > most)
            )
        requests = [engine.add_request(PROMPTS[index], params) for index in (1, 4, 6, 9)]
        run_all(engine)
        return requests

    free, short = serve(1000), serve(1)
    for one, right in zip(short, free, strict=True):
        assert (one.completion_ids, one.finish_reason) == (right.completion_ids, right.finish_reason)
        assert [row.token_id for row in one.logprobs] == [row.token_id for row in right.logprobs]
        assert [row.logprob for row in one.logprobs] == pytest.approx([row.logprob for row in right.logprobs], abs=1e-5)
    for request in serve(0):
        assert_ended_for_lack_of_memory(request)


def test_a_choice_a_prompts_logprobs_or_a_processor_without_memory_end_their_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine("fp32", EngineConfig(), "off", 0.0, None)
    sampler, bad = engine.sampler, PROMPTS[4]

    def is_bad(hidden: Any, rows: Any) -> bool:
        return any(row.request.prompt_ids == list(bad) for row in rows)

    monkeypatch.setattr(sampler, "_take_largest", failing(sampler._take_largest, MemoryError(), is_bad))
    monkeypatch.setattr(sampler, "_predict_prompt", failing(sampler._predict_prompt, MemoryError(), lambda *_: True))

    def process(logits: Any, ids: list[int]) -> Any:
        raise MemoryError

    ended = [
        engine.add_request(bad, GREEDY),
        engine.add_request(PROMPTS[6], replace(GREEDY, prompt_logprobs=2)),
        engine.add_request(PROMPTS[7], GREEDY, RequestOptions(logits_processors=(process,))),
    ]
    good = [engine.add_request(PROMPTS[index], GREEDY) for index in (1, 9)]
    run_all(engine)
    for request in ended:
        assert_ended_for_lack_of_memory(request)
    assert [one.completion_ids for one in good] == [expected(1), expected(9)]


class NoMemory:
    """A constraint that cannot be forked: its third child gets no memory."""

    def __init__(self) -> None:
        self.num_forks = 0
        self.is_finished = False

    def mask(self, num_ids: int | None = None) -> Any:
        return torch.ones(num_ids or 0, dtype=torch.bool).numpy()

    def accept(self, token_id: int) -> None:
        pass

    def count_valid(self, token_ids: Any) -> int:
        return len(token_ids)

    def fork(self) -> NoMemory:
        self.num_forks += 1
        if self.num_forks == 3:
            raise MemoryError
        return NoMemory()


def test_completions_that_cannot_all_be_queued_are_not_queued_at_all() -> None:
    engine = make_engine("fp32", EngineConfig(), "off", 0.0, None)
    with pytest.raises(OutOfMemoryError, match=r"queueing a prompt of \d+ tokens; free some"):
        engine.add_requests(PROMPTS[4], replace(GREEDY, n=5), RequestOptions(constraint=NoMemory()))
    assert not engine.has_unfinished
    check_nothing_is_left(engine)


def test_a_structure_without_memory_is_the_callers_error_and_llm_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError

    with LLM(device="cpu", max_model_len=512) as llm:
        stream = llm.chat_stream("What is 23 + 45?", temperature=0)
        first = next(stream)
        with monkeypatch.context() as patch:
            patch.setattr("qwartet.engine.constrain.write_grammar", fail)
            with pytest.raises(OutOfMemoryError, match="compiling a structure; free some"):
                llm.chat("hello", structure=Structure(choice=("a", "b")))
        assert first + "".join(stream) == "23 + 45 = 68"
        run = llm.engine.runner.run
        monkeypatch.setattr(
            llm.engine.runner, "run", failing(run, MemoryError(), lambda batch: len(batch.input_ids) > 300)
        )
        bad, good = llm.generate([[5] * 400, "hello"], SamplingParams(temperature=0, max_tokens=3))
        assert (bad.finish_reason, good.finish_reason) == ("error", "length")
        assert isinstance(bad.error, OutOfMemoryError) and "400 tokens of request" in str(bad.error)
        with pytest.raises(OutOfMemoryError, match="tokens of request"):
            llm.chat("hello " * 120)
        assert llm.chat("What is 23 + 45?", temperature=0)[0] == "23 + 45 = 68"
