"""CompletionStream.take: for readers of several streams, who are told when there is something to take."""

from __future__ import annotations

import asyncio

from qwartet import LLM
from qwartet.engine.async_engine import AsyncEngine, CompletionStream
from qwartet.engine.sampling_params import SamplingParams

PROMPTS = ("hello", "What is your name?")
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


def test_what_is_taken_of_several_streams_is_all_that_they_say() -> None:
    llm = LLM(device="cpu")

    async def main() -> list[str]:
        news, texts, is_last = asyncio.Event(), ["", ""], False
        async with AsyncEngine(llm.engine) as engine:
            ids = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
            streams = [await engine.add(one, GREEDY, on_news=news.set) for one in ids]
            while not is_last:
                await asyncio.wait_for(news.wait(), 60)
                news.clear()
                for place, stream in enumerate(streams):
                    texts[place] += "".join(output.text for output in stream.take())
                is_last = all(stream.is_finished for stream in streams)
            assert [stream.take() for stream in streams] == [[], []]
        return texts

    found = asyncio.run(main())
    assert found == [llm.generate(prompt, GREEDY)[0].text for prompt in PROMPTS]


def test_an_error_is_told_of_and_stands_beside_what_came_before() -> None:
    async def main() -> tuple[int, Exception | None, bool]:
        calls: list[None] = []
        stream = CompletionStream(1, lambda stream: None, lambda: calls.append(None))
        assert stream.take() == [] and stream.error is None
        stream.fail(ValueError("broken"))
        return len(calls), stream.error, stream.is_finished

    num_calls, error, is_finished = asyncio.run(main())
    assert num_calls == 1 and isinstance(error, ValueError) and is_finished
