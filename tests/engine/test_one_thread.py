"""While a request runs, torch keeps its number of threads everywhere but in the sampler."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread

import pytest
import torch

from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.one_thread import one_thread
from qwartet.engine.request import RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from tests.engine.schedules import make_engine


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class Other(Thread):
    """A thread that says how many threads torch takes in it, whenever it is asked."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._is_asked, self._has_said, self._told = Event(), Event(), 0

    def run(self) -> None:
        while True:
            self._is_asked.wait()
            self._is_asked.clear()
            self._told = torch.get_num_threads()
            self._has_said.set()

    def ask(self) -> int:
        self._has_said.clear()
        self._is_asked.set()
        assert self._has_said.wait(10)
        return self._told


def test_this_thread_takes_one_core_and_others_what_they_had() -> None:
    old = Other()
    old.start()
    assert old.ask() == torch.get_num_threads() == 3
    with one_thread():
        new = Other()
        new.start()
        assert (torch.get_num_threads(), old.ask(), new.ask()) == (1, 3, 3)
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), old.ask(), new.ask()) == (3, 3, 3)


def test_an_exception_leaves_the_number_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3


def test_no_setting_of_the_process_changes_while_requests_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other()
    other.start()
    told = []

    def process(logits: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
        told.append((torch.get_num_threads(), other.ask()))
        return logits

    def refuse(*args: object) -> None:
        raise AssertionError("changes what other threads take")

    monkeypatch.setattr(torch, "set_num_threads", refuse)
    engine = make_engine("fp32", EngineConfig(), "same", 0.0, None)
    params = SamplingParams(max_tokens=9, seed=1, logprobs=1, repetition_penalty=1.1)
    requests = [engine.add_request([1, 2, 3], params, RequestOptions(logits_processors=(process,))) for _ in range(2)]
    while engine.has_unfinished:
        engine.step()
    assert all(request.finish_reason == "length" for request in requests)
    assert told and set(told) == {(1, 3)} and torch.get_num_threads() == 3
