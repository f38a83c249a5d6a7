"""Lines to entries: each line gets one, whatever is wrong with it, and a bounded number is in flight."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from qwartet import LLM
from qwartet.engine.async_engine import AsyncEngine
from qwartet.errors import EngineFailedError
from qwartet.openai_api.batch import QUEUED_PER_PLACE, BatchAnswer, answer_lines
from qwartet.openai_api.batch_file import BatchLine
from qwartet.openai_api.endpoints import Endpoints


@pytest.fixture
def llm() -> LLM:
    return LLM(device="cpu", max_num_seqs=2)


def completion(custom_id: Any, **changes: Any) -> dict[str, Any]:
    body = {"prompt": "hello", "max_tokens": 2}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body, **changes}


def answers_to(llm: LLM, lines: Iterator[BatchLine]) -> Iterator[BatchAnswer]:
    async def main() -> list[BatchAnswer]:
        async with AsyncEngine(llm.engine) as engine:
            return [answer async for answer in answer_lines(Endpoints(llm, engine, ["demo"]), lines)]

    return iter(asyncio.run(main()))


def lines_of(*contents: Any) -> Iterator[BatchLine]:
    for number, content in enumerate(contents, start=1):
        yield BatchLine(number, content if isinstance(content, bytes) else json.dumps(content).encode())


FAULTS = [
    (b"{", "line 1 is not valid JSON", None),
    (b"[" * 10**5, "nested too deeply", None),
    ([], "should be an object", None),
    (completion(7), "custom_id: input should be a valid string", None),
    (completion(""), "custom_id: string should have at least 1 character", ""),
    ({"custom_id": "a"}, "method is missing", "a"),
    (completion("a", method="GET"), "method: input should be 'POST'", "a"),
    (completion("a", url="/v1/embeddings"), "use one of /v1/chat/completions, /v1/completions", "a"),
    (completion("a", body=[]), "body: input should be a valid dictionary", "a"),
    (completion("a", extra=1), "unsupported field 'extra'", "a"),
    (completion("a", body={"prompt": "x", "stream": True}), "stream: true is not supported here", "a"),
]


@pytest.mark.parametrize(("content", "words", "custom_id"), FAULTS)
def test_a_bad_line_has_an_entry_that_says_so(llm: LLM, content: Any, words: str, custom_id: str | None) -> None:
    (answer,) = answers_to(llm, lines_of(content))
    assert answer.error_message is not None and words in answer.error_message
    assert answer.entry["custom_id"] == custom_id and answer.entry["error"] is None
    assert answer.entry["response"]["status_code"] in (400, 404)
    assert answer.usage == {}


def test_only_so_many_lines_are_under_way(llm: LLM) -> None:
    num_taken = num_given = most = 0

    def lines() -> Iterator[BatchLine]:
        nonlocal num_taken, most
        for line in lines_of(*(completion(str(number)) for number in range(100))):
            num_taken += 1
            most = max(most, num_taken - num_given)
            yield line

    async def main() -> None:
        nonlocal num_given
        async with AsyncEngine(llm.engine) as engine:
            async for answer in answer_lines(Endpoints(llm, engine, ["demo"]), lines()):
                assert answer.error_message is None
                num_given += 1

    asyncio.run(main())
    assert num_given == 100 and most <= 2 * QUEUED_PER_PLACE


def test_a_dead_engine_is_no_lines_fault(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(llm.engine.runner, "run", fail)
    with pytest.raises(EngineFailedError, match="broken"):
        answers_to(llm, lines_of(*(completion(str(number)) for number in range(20))))
