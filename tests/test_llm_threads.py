"""LLM and the card's model under several threads, interleaved streams, interrupts, `close`, and dropped references.

The expected answer is always that of the same question asked alone, token for token.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from qwartet import DEMO, LLM, AutoModelForCausalLM, AutoTokenizer
from qwartet.engine.async_engine import AsyncEngine
from qwartet.engine.engine_thread import THREAD_NAME
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.structure import Structure
from qwartet.errors import EngineFailedError, RequestError, SettingError

MAX_WAIT_S = 60
SUMS = {f"What is {a} + {b}?": f"{a} + {b} = {a + b}" for a, b in ((23, 45), (7, 8), (60, 31), (12, 12))}
LONG = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}
Ask = Callable[[], Any]


def collected(stream: Iterator[str]) -> str:
    return "".join(stream)


def asked_of_llm(llm: LLM) -> dict[str, Ask]:
    """A question of every kind."""
    sampled: dict[str, Any] = {"temperature": 1.3, "top_p": 0.9, "seed": 11, "max_tokens": 20}
    told = SamplingParams(temperature=0, max_tokens=6, logprobs=2, prompt_logprobs=1)
    return {
        **{query: lambda query=query: llm.chat(query, temperature=0) for query in SUMS},
        "history": lambda: llm.chat("And 1 + 1?", [("What is 2 + 2?", "2 + 2 = 4")], temperature=0),
        "sampled": lambda: llm.chat("Tell me a story about the sea", **sampled)[0],
        "stream": lambda: collected(llm.chat_stream("Tell me something about cats.", temperature=0, max_tokens=30)),
        "complete": lambda: collected(llm.complete_stream("The code is 42. The code", temperature=0, max_tokens=40)),
        "n": lambda: llm.generate(["a b a b", "hello"], SamplingParams(n=3, seed=2, temperature=1.5, max_tokens=9)),
        "logprobs": lambda: [(one.logprobs, one.prompt_logprobs) for one in llm.generate(["What is this?"], told)],
        "structure": lambda: llm.chat("What is 23 + 45?", structure=Structure(regex=r"\d+ - \d+ = [a-z]{5}"), seed=1)[
            0
        ],
        "penalty": lambda: llm.chat("你好", repetition_penalty=1.4, presence_penalty=0.5, temperature=0, max_tokens=20),
        "logits": lambda: llm.logits([5, 9, 70, 11]).tolist(),
    }


def asked_of_card(model: Any, tokenizer: Any) -> dict[str, Ask]:
    def ids(text: str) -> torch.Tensor:
        return torch.tensor([tokenizer(text).input_ids])

    greedy = {"do_sample": False}
    return {
        **{query: lambda query=query: model.chat(tokenizer, query, None, **greedy) for query in SUMS},
        "stream": lambda: list(model.chat_stream(tokenizer, "What is your name?", None, **greedy, max_new_tokens=20)),
        "batch": lambda: model.generate(ids("a b a b").repeat(3, 1), max_new_tokens=12, **greedy).tolist(),
        "logits": lambda: model(ids("What is this?")).logits.tolist(),
        "loss": lambda: float(model(ids("What is this?"), labels=ids("What is this?")).loss),
    }


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture(scope="module")
def card() -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(DEMO, device_map="cpu").eval(), AutoTokenizer.from_pretrained(DEMO)


@pytest.fixture(autouse=True)
def nothing_is_left(llm: LLM) -> Iterator[None]:
    yield
    llm.engine.block_manager.check_integrity()
    assert llm.engine.block_manager.num_free_blocks == llm.engine.block_manager.num_blocks
    assert not llm.engine.has_unfinished


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def wait_for(is_true: Callable[[], bool]) -> None:
    until = time.monotonic() + MAX_WAIT_S
    while not is_true():
        assert time.monotonic() < until
        time.sleep(0.001)


def assert_all_get_what_they_get_alone(asked: dict[str, Ask], num_rounds: int) -> None:
    """Each thread asks every question, in an order of its own."""
    alone = {name: ask() for name, ask in asked.items()}
    names = list(asked)

    def work(number: int) -> list[str]:
        mine = names[number:] + names[:number]
        return [name for name in mine * num_rounds if asked[name]() != alone[name]]

    with ThreadPoolExecutor(len(names)) as pool:
        assert [*itertools.chain(*pool.map(work, range(len(names)), timeout=MAX_WAIT_S))] == []
    assert {name: ask() for name, ask in asked.items()} == alone


def test_threads_that_ask_an_llm_get_what_they_get_alone(llm: LLM) -> None:
    assert_all_get_what_they_get_alone(asked_of_llm(llm), num_rounds=2)


def test_threads_that_ask_the_cards_model_get_what_they_get_alone(card: tuple[Any, Any]) -> None:
    assert_all_get_what_they_get_alone(asked_of_card(*card), num_rounds=2)


def test_threads_that_are_the_first_to_ask_make_one_engine() -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(DEMO, device_map="cpu"), AutoTokenizer.from_pretrained(DEMO)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda query: model.chat(tokenizer, query, None, do_sample=False)[0], SUMS))
    assert found == list(SUMS.values())
    assert len({id(thread) for thread in (model.engine_thread, model.engine_thread)}) == 1


def test_requests_of_several_threads_are_computed_together(llm: LLM) -> None:
    together = 0

    def observe(stats: Any) -> None:
        nonlocal together
        together = max(together, stats.num_requests)

    llm.engine.observers.append(observe)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda query: llm.chat(query, **{**LONG, "max_tokens": 100}), SUMS))
    llm.engine.observers.remove(observe)
    assert together == 4


def streams_of_every_kind(llm: LLM, card: tuple[Any, Any]) -> list[Callable[[], Iterator[str]]]:
    """Streams of text pieces; the card's cumulative texts are reduced to what each adds."""
    model, tokenizer = card

    def added(query: str, **settings: Any) -> Iterator[str]:
        before = ""
        for text in model.chat_stream(tokenizer, query, None, do_sample=False, **settings):
            assert text.startswith(before)
            yield text[len(before) :]
            before = text

    return [
        *(lambda query=query: llm.chat_stream(query, temperature=0) for query in SUMS),
        lambda: llm.chat_stream("Tell me a story", temperature=1.2, seed=5, max_tokens=30),
        lambda: llm.complete_stream("The cat", temperature=0, max_tokens=25),
        lambda: llm.complete_stream([5, 6, 7], temperature=0, max_tokens=25, ignore_eos=True),
        lambda: llm.chat_stream("yes or no?", structure=Structure(choice=("yes, yes, yes", "no, no, no")), seed=3),
        lambda: added("What is 23 + 45?"),
        lambda: added("Tell me something about cats.", max_new_tokens=20),
    ]


def test_streams_that_are_read_in_turns_keep_their_rest(llm: LLM, card: tuple[Any, Any]) -> None:
    begin = streams_of_every_kind(llm, card)
    alone = [collected(stream()) for stream in begin]
    for step in (1, 2, 5):  # pieces of each in turn
        open_streams = {place: stream() for place, stream in enumerate(begin)}
        got = [""] * len(begin)
        while open_streams:
            for place, stream in list(open_streams.items()):
                pieces = list(itertools.islice(stream, step))
                got[place] += "".join(pieces)
                if len(pieces) < step:
                    del open_streams[place]
        assert got == alone


def test_a_stream_keeps_its_rest_whatever_is_asked_between_two_pieces(llm: LLM, card: tuple[Any, Any]) -> None:
    others = [*asked_of_llm(llm).values(), *asked_of_card(*card).values()]
    for begin in streams_of_every_kind(llm, card):
        stream = begin()
        got = next(stream)
        for other in others[::3]:
            other()
            got += collected(itertools.islice(stream, 1))
        assert got + collected(stream) == collected(begin())


def test_a_stream_goes_on_in_another_thread(llm: LLM, card: tuple[Any, Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        for begin in streams_of_every_kind(llm, card):
            stream = begin()
            assert next(stream) + pool.submit(collected, stream).result(MAX_WAIT_S) == collected(begin())


def test_what_fails_in_one_thread_fails_there_alone(llm: LLM) -> None:
    bad: list[tuple[type[Exception], Ask]] = [
        (RequestError, lambda: llm.chat("hello " * 3000)),
        (RequestError, lambda: llm.generate("")),
        (RequestError, lambda: list(llm.complete_stream([10**6]))),
        (RequestError, lambda: llm.chat("hello", structure=Structure(regex="("))),
        (SettingError, lambda: list(llm.complete_stream("x", n=2))),
        (RequestError, lambda: llm.logits([])),
        (RequestError, lambda: llm.logits([10**6])),
        (RequestError, lambda: llm.logits([1] * 5000)),
    ]

    def fail(number: int) -> None:
        for kind, ask in bad:
            with pytest.raises(kind):
                ask()

    with ThreadPoolExecutor(6) as pool:
        failing = [pool.submit(fail, number) for number in range(3)]
        answers = list(pool.map(lambda query: llm.chat(query, temperature=0)[0], list(SUMS) * 3, timeout=MAX_WAIT_S))
        for one in failing:
            one.result(MAX_WAIT_S)
    assert answers == list(SUMS.values()) * 3


@pytest.mark.parametrize("kind", ["chat", "stream", "generate", "card"])
def test_an_interrupt_ends_the_answer_that_is_waited_for_and_no_other(
    llm: LLM, card: tuple[Any, Any], kind: str
) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    model, tokenizer = card
    asks: dict[str, Ask] = {
        "chat": lambda: llm.chat("hello", **LONG),
        "stream": lambda: collected(llm.chat_stream("hello", **LONG)),
        "generate": lambda: llm.generate(["hello", "你好"], SamplingParams(**LONG)),
        "card": lambda: model.chat(tokenizer, "a", None, do_sample=False, max_new_tokens=1500, min_new_tokens=1500),
    }
    before = signal.signal(signal.SIGALRM, interrupt)
    params = SamplingParams(temperature=0, max_tokens=150, ignore_eos=True)
    expected = llm.generate("你好", params)[0].token_ids
    try:
        with ThreadPoolExecutor(1) as pool:
            for delay_s in (0.004, 0.01, 0.015, 0.02):
                other = pool.submit(llm.generate, "你好", params)
                with pytest.raises(KeyboardInterrupt):
                    signal.setitimer(signal.ITIMER_REAL, delay_s)
                    asks[kind]()
                    time.sleep(MAX_WAIT_S)
                assert other.result(MAX_WAIT_S)[0].token_ids == expected
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_for(lambda: not model.engine.has_unfinished)
    assert model.chat(tokenizer, "What is 23 + 45?", None, do_sample=False)[0] == SUMS["What is 23 + 45?"]


def test_close_breaks_off_what_is_waited_for_and_frees_the_model() -> None:
    gc.collect()
    gc.disable()  # what is freed is freed by reference counts
    try:
        llm, before = LLM(device="cpu", max_model_len=2048), set(engine_threads())
        network, engine = weakref.ref(llm.model), weakref.ref(llm.engine)
        stream = llm.chat_stream("hello", **LONG)
        next(stream)
        with ThreadPoolExecutor(2) as pool:
            waiting = pool.submit(llm.chat, "hello", **LONG)
            wait_for(lambda: len(llm.engine.scheduler.running) == 2)
            llm.close()
            with pytest.raises(EngineFailedError, match="closed; create a new one"):
                waiting.result(MAX_WAIT_S)
            with pytest.raises(EngineFailedError, match="closed; create a new one"):
                list(stream)
        del waiting, stream
        llm.close()
        assert set(engine_threads()) <= before
        assert (network(), engine()) == (None, None)
    finally:
        gc.enable()
    asks: list[Ask] = [
        lambda: llm.chat("hello"), lambda: list(llm.complete_stream("x")), lambda: llm.generate(["x"]),
        lambda: llm.logits([1]), lambda: llm.model, lambda: llm.engine,
    ]  # fmt: skip
    for ask in asks:
        with pytest.raises(EngineFailedError, match="closed; create a new one"):
            ask()


def test_with_closes_whatever_happens() -> None:
    with pytest.raises(ZeroDivisionError), LLM(device="cpu", max_model_len=256) as llm:
        assert llm.chat("What is 23 + 45?", temperature=0)[0] == "23 + 45 = 68"
        raise ZeroDivisionError
    with pytest.raises(EngineFailedError, match="closed"):
        llm.chat("hello")


def ask_nothing(llm: LLM) -> None:
    pass


def ask_something(llm: LLM) -> None:
    llm.generate(["hello", "", None, [10**6]], SamplingParams(max_tokens=3))
    llm.logits([1, 2])


def leave_a_stream(llm: LLM) -> Any:
    stream = llm.chat_stream("hello", **LONG)
    next(stream)
    return stream


@pytest.mark.parametrize("use", [ask_nothing, ask_something, leave_a_stream])
def test_an_llm_that_is_dropped_is_freed_and_ends_its_thread(use: Callable[[LLM], Any]) -> None:
    before = set(engine_threads())
    gc.collect()
    gc.disable()
    try:
        llm = LLM(device="cpu", max_model_len=2048)
        network = weakref.ref(llm.model)
        left = use(llm)
        del llm
        assert left is None or network() is not None, "a stream goes on without its LLM"
        del left
        wait_for(lambda: network() is None and set(engine_threads()) <= before)
    finally:
        gc.enable()


def test_a_cards_model_that_is_dropped_is_freed_and_ends_its_thread() -> None:
    before = set(engine_threads())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(DEMO, device_map="cpu"), AutoTokenizer.from_pretrained(DEMO)
    model.chat(tokenizer, "What is 23 + 45?", None, do_sample=False)
    network = weakref.ref(model.model)
    del model
    wait_for(lambda: set(engine_threads()) <= before)
    gc.collect()
    assert network() is None


def test_a_stream_that_was_never_read_asks_nothing(llm: LLM) -> None:
    streams = [llm.chat_stream("hello", **LONG) for _ in range(3)]
    streams[0].close()
    assert not llm.engine.has_unfinished


def test_coroutines_and_threads_ask_the_same_engine_at_once(llm: LLM) -> None:
    ids = {query: llm.chat_prompt(query, [], None, llm.sampling_params()) for query in SUMS}
    params = llm.sampling_params(temperature=0)

    async def main() -> list[str]:
        async with AsyncEngine(llm.engine) as first, AsyncEngine(llm.engine) as second:
            streams = [await engine.add(ids[query], params) for query in SUMS for engine in (first, second)]
            threads = [asyncio.to_thread(llm.chat, query, temperature=0) for query in SUMS]
            mine, theirs = await asyncio.gather(
                asyncio.gather(*(stream.collect() for stream in streams)), asyncio.gather(*threads)
            )
            assert [answer for answer, _ in theirs] == list(SUMS.values())
            await second.close()
            assert llm.chat("What is 7 + 8?", temperature=0)[0] == "7 + 8 = 15"
            [again] = await (await first.add(ids["What is 7 + 8?"], params)).collect()
            texts = [output.text for [output] in mine]
        return [*texts, again.text]

    stop = llm.tokenizer.special_tokens["<|im_end|>"]
    params = params.updated({"stop_token_ids": [stop]})
    both = [answer for answer in SUMS.values() for _ in range(2)]
    assert asyncio.run(main()) == [*both, "7 + 8 = 15"]
    assert llm.chat("What is 7 + 8?", temperature=0)[0] == "7 + 8 = 15"


def test_closing_an_llm_is_told_to_the_coroutines_that_use_its_engine() -> None:
    llm = LLM(device="cpu", max_model_len=2048)

    async def main() -> None:
        async with AsyncEngine(llm.engine) as engine:
            stream = await engine.add([1, 2, 3], SamplingParams(**LONG))
            await anext(stream)
            await asyncio.to_thread(llm.close)
            with pytest.raises(EngineFailedError, match="closed"):
                await stream.collect()
            with pytest.raises(EngineFailedError, match="closed"):
                await engine.add([1, 2, 3], SamplingParams(**LONG))
            assert not engine.is_healthy and engine.num_running == engine.num_waiting == 0

    asyncio.run(asyncio.wait_for(main(), MAX_WAIT_S))


def test_a_step_by_hand_while_the_thread_is_at_work_is_refused_and_breaks_nothing(llm: LLM) -> None:
    stream = llm.complete_stream("hello", **{**LONG, "max_tokens": 300})
    next(stream)
    asks: list[Ask] = [llm.engine.step, lambda: llm.engine.add_request([1, 2], SamplingParams())]
    for ask in asks:
        with pytest.raises(RuntimeError, match=r"another thread is using .*; go through LLM or AsyncEngine"):
            ask()
    rest = collected(stream)
    assert rest and collected(llm.complete_stream("hello", **{**LONG, "max_tokens": 300})).endswith(rest)
    request = llm.engine.add_request([1, 2], SamplingParams(max_tokens=3, ignore_eos=True))
    while llm.engine.has_unfinished:
        llm.engine.step()
    assert request.finish_reason == "length"


def test_torch_takes_as_many_cores_for_an_answer_as_for_the_one_who_asks(llm: LLM) -> None:
    taken = []
    llm.engine.observers.append(lambda stats: taken.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    try:
        for count in (3, 1, 2):
            torch.set_num_threads(count)
            llm.generate("hello", SamplingParams(max_tokens=2, ignore_eos=True))
    finally:
        torch.set_num_threads(before)
        llm.engine.observers.pop()
    assert [count for count, _ in itertools.groupby(taken)] == [3, 1, 2]
