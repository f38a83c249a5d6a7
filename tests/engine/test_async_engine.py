"""AsyncEngine: what many coroutines get is what `generate` gives, and nobody's end, early or bad, harms the others."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from qwartet import LLM
from qwartet.engine.async_engine import NUM_COMPILERS, AsyncEngine
from qwartet.engine.engine import Engine, StepOutput
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.engine_thread import EngineThread
from qwartet.engine.request import Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.structure import Structure
from qwartet.errors import EngineFailedError, RequestError, SettingError

TEXTS = ("hello", "What is your name?", "The capital of France is", "你好", "Count: one, two, three,", "a b a b a b a")
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
LONG, MAX_WAIT_S = replace(GREEDY, max_tokens=1500), 60


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture
def engine(llm: LLM) -> Engine:
    return Engine(llm.model, EngineConfig(max_num_seqs=8), tokenizer=llm.tokenizer)


@pytest.fixture(autouse=True)
def no_thread_is_left(llm: LLM) -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    EngineThread.of(llm.engine).rest()  # which has made what was expected
    assert not [thread for thread in threading.enumerate() if thread not in before]


def run(engine: Engine, use: Callable[[AsyncEngine], Awaitable[Any]], **settings: Any) -> Any:
    """What a coroutine function makes of an AsyncEngine, which is closed then."""

    async def main() -> Any:
        async with AsyncEngine(engine, **settings) as async_engine:
            return await asyncio.wait_for(use(async_engine), MAX_WAIT_S)

    return asyncio.run(main())


def is_all_free(engine: Engine) -> bool:
    engine.block_manager.check_integrity()
    return engine.block_manager.num_free_blocks == engine.block_manager.num_blocks and not engine.has_unfinished


async def until(is_true: Callable[[], bool]) -> None:
    """Waits for what another thread will do; the engine's steps take about a millisecond."""
    while not is_true():
        await asyncio.sleep(0.001)


async def read(async_engine: AsyncEngine, prompt_ids: list[int], params: SamplingParams) -> tuple[list[int], str, str]:
    """Ids, text and finish reason of one completion, piece by piece."""
    ids, text, reason = [], "", None
    async for output in async_engine.generate(prompt_ids, params):
        assert reason is None, "something came after the end"
        ids, text, reason = ids + output.token_ids, text + output.text, output.finish_reason
    return ids, text, str(reason)


class GatedSteps:
    """Lets the steps of an engine pass one by one."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_begun = 0
        self._passes = threading.Semaphore(0)
        self._step = engine.step
        monkeypatch.setattr(engine, "step", self)

    def __call__(self) -> list[StepOutput]:
        self.num_begun += 1
        assert self._passes.acquire(timeout=MAX_WAIT_S)
        return self._step()

    def let_pass(self, count: int) -> None:
        self._passes.release(count)


@pytest.fixture
def gate(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> GatedSteps:
    return GatedSteps(engine, monkeypatch)


def test_many_streams_are_what_generate_gives(llm: LLM, engine: Engine) -> None:
    prompts = [llm.tokenizer.encode(f"{text}{number}") for number in range(6) for text in TEXTS]
    expected = llm.generate(prompts, GREEDY)

    async def use(async_engine: AsyncEngine) -> list[tuple[list[int], str, str]]:
        async def late(place: int) -> tuple[list[int], str, str]:
            await asyncio.sleep(0.0005 * place)
            return await read(async_engine, prompts[place], GREEDY)

        return await asyncio.gather(*map(late, range(len(prompts))))

    found = run(engine, use)
    assert found == [(one.token_ids, one.text, one.finish_reason) for one in expected]
    assert is_all_free(engine)


def test_children_come_with_their_index(llm: LLM, engine: Engine) -> None:
    prompt_ids = llm.tokenizer.encode("hello")
    params = SamplingParams(n=5, seed=3, temperature=1.5, max_tokens=16, logprobs=1, ignore_eos=True)
    expected = llm.generate(prompt_ids, params)

    async def use(async_engine: AsyncEngine) -> list[Any]:
        return await (await async_engine.add(prompt_ids, params)).collect()

    outputs = run(engine, use)
    assert [output.index for output in outputs] == [0, 1, 2, 3, 4]
    assert [output.token_ids for output in outputs] == [one.token_ids for one in expected]
    assert [output.text for output in outputs] == [one.text for one in expected]
    assert [[one.token_id for one in output.logprobs] for output in outputs] == [one.token_ids for one in expected]


def test_a_slow_reader_gets_what_has_come_in_one_piece(llm: LLM, engine: Engine, gate: GatedSteps) -> None:
    prompt_ids = llm.tokenizer.encode("hello")
    expected = llm.generate(prompt_ids, GREEDY)[0]

    async def use(async_engine: AsyncEngine) -> list[Any]:
        stream = await async_engine.add(prompt_ids, GREEDY)
        gate.let_pass(1)
        first = await anext(stream)
        gate.let_pass(GREEDY.max_tokens)
        await until(lambda: stream.is_finished)
        return [first, *[output async for output in stream]]

    first, second = run(engine, use)
    assert (first.token_ids, first.token_ids + second.token_ids) == (expected.token_ids[:1], expected.token_ids)
    assert first.text + second.text == expected.text


def test_aborts_at_random_moments_free_their_blocks_and_change_no_other_text(llm: LLM, engine: Engine) -> None:
    prompts = [llm.tokenizer.encode(text * 8) for text in TEXTS]
    expected = [one.token_ids for one in llm.generate(prompts, GREEDY)]
    chance = random.Random(5)

    async def one(async_engine: AsyncEngine, number: int) -> None:
        place, patience = number % len(prompts), chance.choice([None, 0, 1, 2, 5, 12])
        ids: list[int] = []
        async with await async_engine.add(prompts[place], GREEDY) as stream:
            while patience != 0:
                try:
                    output = await anext(stream)
                except StopAsyncIteration:
                    assert ids == expected[place]
                    return
                ids += output.token_ids
                patience = None if patience is None else patience - 1
        assert ids == expected[place][: len(ids)]

    async def use(async_engine: AsyncEngine) -> None:
        await asyncio.gather(*(one(async_engine, number) for number in range(150)))
        await until(lambda: not async_engine.num_waiting + async_engine.num_running)

    run(engine, use)
    assert is_all_free(engine)


def test_an_abort_ends_a_stream_or_one_of_its_completions(engine: Engine, gate: GatedSteps) -> None:
    params = replace(LONG, n=2)

    async def use(async_engine: AsyncEngine) -> None:
        whole, one = [await async_engine.add([1, 2, 3, place], params) for place in range(2)]
        gate.let_pass(2)
        await until(lambda: gate.num_begun == 3)
        whole.abort()
        async_engine.abort(one.requests[1])
        gate.let_pass(1)
        assert [output.finish_reason for output in await whole.collect()] == ["abort", "abort"]
        await until(lambda: one.requests[1].is_finished)
        assert not one.requests[0].is_finished and not one.is_finished
        one.abort()
        gate.let_pass(1)
        assert [output.finish_reason for output in await one.collect()] == ["abort", "abort"]

    run(engine, use)
    assert is_all_free(engine)


@pytest.mark.parametrize("how", ["cancel", "break"])
def test_a_reader_that_leaves_ends_its_request(engine: Engine, gate: GatedSteps, how: str) -> None:
    requests: list[Request] = []

    async def reader(async_engine: AsyncEngine) -> None:
        async for output in async_engine.generate([1, 2, 3], LONG):
            requests.append(output.request)
            if how == "break":
                break

    async def use(async_engine: AsyncEngine) -> None:
        task = asyncio.create_task(reader(async_engine))
        gate.let_pass(2)
        await until(lambda: bool(requests))
        if how == "cancel":
            task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() is (how == "cancel")
        gate.let_pass(2)
        await until(lambda: requests[0].is_finished)

    run(engine, use)
    assert requests[0].finish_reason == "abort"
    assert is_all_free(engine)


@pytest.mark.parametrize("error", [ValueError("broken"), BaseException("a panic")])
def test_a_failed_step_reaches_every_stream_and_every_later_call(
    llm: LLM, engine: Engine, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    are_all_there = threading.Event()

    def fail_at_last(schedule: Any) -> None:
        if are_all_there.is_set():
            raise error

    monkeypatch.setattr(engine.speculation, "propose", fail_at_last)
    prompt_ids = llm.tokenizer.encode("hello")

    async def use(async_engine: AsyncEngine) -> None:
        streams = [await async_engine.add(prompt_ids, LONG) for _ in range(12)]
        are_all_there.set()
        for stream in streams:
            with pytest.raises(EngineFailedError, match=r"broken|a panic"):
                await stream.collect()
        with pytest.raises(EngineFailedError):
            await async_engine.add(prompt_ids, GREEDY)
        with pytest.raises(EngineFailedError):
            await read(async_engine, prompt_ids, GREEDY)
        streams[0].abort()
        assert not async_engine.is_healthy

    run(engine, use)


def test_an_error_of_one_request_ends_that_one_alone(llm: LLM, engine: Engine) -> None:
    def fail(logits: Any, ids: list[int]) -> Any:
        if len(ids) > 8:
            raise ValueError("my processor is broken")
        return logits

    prompt_ids = llm.tokenizer.encode("hello")

    async def use(async_engine: AsyncEngine) -> tuple[list[int], list[int]]:
        good = asyncio.create_task(read(async_engine, prompt_ids, GREEDY))
        stream = await async_engine.add(prompt_ids, replace(GREEDY, n=2), RequestOptions(logits_processors=(fail,)))
        bad_ids: list[int] = []
        with pytest.raises(ValueError, match="my processor is broken"):
            async for output in stream:
                bad_ids += output.token_ids if output.index == 0 else []
        with pytest.raises(ValueError, match="my processor is broken"):
            await stream.collect()  # it stays that way
        return (await good)[0], bad_ids

    ids, bad_ids = run(engine, use)
    assert ids == llm.generate(prompt_ids, GREEDY)[0].token_ids
    assert bad_ids == ids[: len(bad_ids)] and bad_ids, "what came before the error is lost"
    assert is_all_free(engine)


@pytest.mark.parametrize(
    ("prompt_ids", "params", "error"),
    [
        ([], GREEDY, RequestError),
        ([10**6], GREEDY, RequestError),
        ([1] * 5000, GREEDY, RequestError),
        ([1], replace(GREEDY, logit_bias=((10**6, 1.0),)), SettingError),
        ([1], replace(GREEDY, structure=Structure(regex="(")), RequestError),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_queued(
    engine: Engine, prompt_ids: list[int], params: SamplingParams, error: type[Exception]
) -> None:
    async def use(async_engine: AsyncEngine) -> None:
        with pytest.raises(error):
            await async_engine.add(prompt_ids, params)
        assert async_engine.num_waiting == async_engine.num_running == 0 and async_engine.is_healthy

    run(engine, use)


def test_an_option_that_shows_to_be_wrong_in_the_engines_thread_is_its_senders_error(engine: Engine) -> None:
    async def use(async_engine: AsyncEngine) -> None:
        with pytest.raises(AttributeError, match="encode"):
            await (await async_engine.add([1], GREEDY, RequestOptions(cache_salt=5))).collect()
        assert len((await read(async_engine, [1, 2, 3], GREEDY))[0]) == GREEDY.max_tokens

    run(engine, use)


@pytest.mark.parametrize(("drain", "params", "reason"), [(True, GREEDY, "length"), (False, LONG, "abort")])
def test_close_ends_open_streams_and_a_drain_waits_for_them(
    engine: Engine, drain: bool, params: SamplingParams, reason: str
) -> None:
    async def use() -> list[str | None]:
        async_engine = AsyncEngine(engine)
        streams = [await async_engine.add([1, 2, 3], params) for _ in range(12)]
        await anext(streams[0])
        await async_engine.close(drain=drain)
        assert not async_engine.is_healthy
        with pytest.raises(EngineFailedError, match="closed"):
            await async_engine.add([1, 2, 3], params)
        return [(await stream.collect())[0].finish_reason for stream in streams]

    assert asyncio.run(use()) == [reason] * 12
    assert is_all_free(engine)


def test_a_second_close_ends_a_drain(engine: Engine, gate: GatedSteps) -> None:
    async def use() -> Any:
        async_engine = AsyncEngine(engine)
        stream = await async_engine.add([1, 2, 3], LONG)
        gate.let_pass(2)
        await until(lambda: gate.num_begun == 3)
        closings = [asyncio.create_task(async_engine.close(drain=drain)) for drain in (True, False)]
        await asyncio.sleep(0)
        gate.let_pass(1)
        await asyncio.gather(*closings)
        return (await stream.collect())[0]

    output = asyncio.run(use())
    assert (len(output.token_ids), output.finish_reason) == (3, "abort")


def test_an_engine_that_was_never_used_or_already_closed_can_be_closed(engine: Engine) -> None:
    async def use() -> None:
        async_engine = AsyncEngine(engine)
        await async_engine.close()
        await async_engine.close()
        with pytest.raises(EngineFailedError, match="closed"):
            await async_engine.add([1], GREEDY)

    asyncio.run(use())


@pytest.mark.parametrize("is_woken", [True, False])  # or was, and has not answered when it is closed
def test_a_loop_that_ends_without_close_ends_the_thread_too(engine: Engine, gate: GatedSteps, is_woken: bool) -> None:
    async def use() -> None:
        await AsyncEngine(engine).add([1, 2, 3], LONG)
        if not is_woken:
            asyncio.get_running_loop().call_soon_threadsafe = lambda *_: None
        gate.let_pass(2)
        await until(lambda: gate.num_begun == 3)

    asyncio.run(use())
    thread = next(one for one in threading.enumerate() if one.name == "qwartet-engine")
    gate.let_pass(3)  # of 1,500: at the first of them it sees that nobody listens
    thread.join(MAX_WAIT_S)
    assert is_all_free(engine) and gate.num_begun <= 5


def test_a_second_event_loop_is_refused(engine: Engine) -> None:
    async_engine = AsyncEngine(engine)

    async def use() -> None:
        await (await async_engine.add([1], GREEDY)).collect()

    async def use_elsewhere() -> None:
        with pytest.raises(RuntimeError, match="one per loop"):
            await async_engine.add([1], GREEDY)

    async def main() -> None:
        await use()
        await asyncio.to_thread(lambda: asyncio.run(use_elsewhere()))
        await async_engine.close()

    asyncio.run(main())


def test_a_prompt_that_comes_during_a_step_is_in_the_next_one(engine: Engine, gate: GatedSteps) -> None:
    async def use(async_engine: AsyncEngine) -> None:
        await async_engine.add([1, 2, 3], LONG)
        await until(lambda: gate.num_begun == 1)
        stream = await async_engine.add([4, 5, 6], GREEDY)  # does not wait for the step
        assert (async_engine.num_waiting, gate.num_begun) == (2, 1)
        gate.let_pass(2)
        assert (await anext(stream)).token_ids
        await until(lambda: gate.num_begun == 3)
        assert (async_engine.num_waiting, async_engine.num_running) == (0, 2)
        gate.let_pass(10_000)

    run(engine, use)


def test_the_event_loop_is_woken_at_most_once_a_step(
    engine: Engine, gate: GatedSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.let_pass(10_000)

    async def use(async_engine: AsyncEngine) -> int:
        loop, num_calls = asyncio.get_running_loop(), 0
        call = loop.call_soon_threadsafe

        def count(*arguments: Any) -> Any:
            nonlocal num_calls
            num_calls += threading.current_thread().name == "qwartet-engine"
            return call(*arguments)

        monkeypatch.setattr(loop, "call_soon_threadsafe", count)
        await asyncio.gather(*(read(async_engine, [1, 2, number], GREEDY) for number in range(8)))
        return num_calls

    assert 0 < run(engine, use) <= gate.num_begun


def test_an_idle_engine_uses_no_processor(engine: Engine) -> None:
    async def use(async_engine: AsyncEngine) -> float:
        await (await async_engine.add([1, 2], GREEDY)).collect()
        thread = next(thread for thread in threading.enumerate() if thread.name == "qwartet-engine")
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        await asyncio.sleep(0.05)  # it may still be on the way to where it waits
        before_s = time.clock_gettime(clock)
        await asyncio.sleep(0.3)
        return time.clock_gettime(clock) - before_s

    assert run(engine, use) < 0.001


CHOICE = replace(GREEDY, structure=Structure(choice=("yes", "no")))


class HeldCompiler:
    """Compiles structures once it may."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go_on = threading.Event()
        self.threads: list[str] = []  # that have begun
        self._compile = engine.compile
        monkeypatch.setattr(engine, "compile", self)

    def __call__(self, structure: Structure, stops: frozenset[int]) -> Any:
        self.threads.append(threading.current_thread().name)
        assert self.may_go_on.wait(MAX_WAIT_S)
        return self._compile(structure, stops)


@pytest.fixture
def compiler(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> HeldCompiler:
    return HeldCompiler(engine, monkeypatch)


def test_a_structure_is_compiled_while_others_go_on(engine: Engine, compiler: HeldCompiler) -> None:
    async def use(async_engine: AsyncEngine) -> str:
        waiting = asyncio.create_task(read(async_engine, [1, 2], CHOICE))
        await read(async_engine, [1, 2], GREEDY)
        assert not waiting.done()
        compiler.may_go_on.set()
        return (await waiting)[1]

    assert run(engine, use) in ("yes", "no")
    assert compiler.threads[0].startswith("qwartet-compile")


def test_a_structure_that_takes_too_long_is_refused_and_keeps_its_place_till_it_is_done(
    engine: Engine, compiler: HeldCompiler
) -> None:
    async def use(async_engine: AsyncEngine) -> str:
        for _ in range(NUM_COMPILERS):
            with pytest.raises(RequestError, match=r"takes more than 0\.05 s to compile"):
                await async_engine.add([1, 2], CHOICE)
        third = asyncio.create_task(async_engine.add([1, 2], CHOICE))
        await asyncio.sleep(0.1)
        assert not third.done(), "who waits for a place is not timed"
        compiler.may_go_on.set()
        return (await (await third).collect())[0].text

    assert run(engine, use, compile_timeout_s=0.05) in ("yes", "no")


def test_close_does_not_wait_for_structures_that_are_not_begun(engine: Engine, compiler: HeldCompiler) -> None:
    async def use() -> None:
        async_engine = AsyncEngine(engine)
        waiting = [asyncio.create_task(async_engine.add([1, 2], CHOICE)) for _ in range(6)]
        await until(lambda: len(compiler.threads) == NUM_COMPILERS)
        closing = asyncio.create_task(async_engine.close())
        await asyncio.sleep(0.01)
        compiler.may_go_on.set()
        await closing
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in errors] == [EngineFailedError] * 6

    asyncio.run(use())
    assert len(compiler.threads) == NUM_COMPILERS
