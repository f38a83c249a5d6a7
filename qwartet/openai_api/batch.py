"""Batch lines to entries of the answer file, with just enough requests in flight to keep the engine busy."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from qwartet.openai_api.batch_file import BatchLine
from qwartet.openai_api.endpoints import Endpoints
from qwartet.openai_api.error import ApiError, validated
from qwartet.openai_api.object import ApiObject

QUEUED_PER_PLACE = 4  # lines in flight per request that the engine can run at once


class BatchRequest(ApiObject):
    """A line of IN."""

    custom_id: Annotated[str, Field(min_length=1)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class BatchAnswer:
    """A line's entry and its usage."""

    line_number: int
    entry: dict[str, Any]
    usage: dict[str, int]  # empty for a failure
    error_message: str | None  # None unless the line failed


async def answer_lines(endpoints: Endpoints, lines: Iterable[BatchLine]) -> AsyncGenerator[BatchAnswer]:
    """The answers as they complete, in any order; EngineFailedError if the engine fails."""
    most = QUEUED_PER_PLACE * endpoints.llm.engine.scheduler.max_num_seqs
    running: set[asyncio.Task[BatchAnswer]] = set()
    try:
        for line in lines:
            running.add(asyncio.create_task(answer_line(endpoints, line)))
            if len(running) >= most:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        for next_one in asyncio.as_completed(running):
            yield await next_one
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def answer_line(endpoints: Endpoints, line: BatchLine) -> BatchAnswer:
    """A line's answer or its error; EngineFailedError if the engine fails."""
    custom_id: Any = None
    error_message = None
    try:
        content = _parse(line)
        custom_id = content.get("custom_id") if isinstance(content, dict) else None
        request = validated(BatchRequest, content)
        status, body = 200, await endpoints.answer(request.url, request.body)
    except ApiError as error:
        status, body, error_message = error.status, error.to_dict(), error.message
    token = secrets.token_hex(12)
    entry = {
        "id": f"batch_req_{token}",
        "custom_id": custom_id if isinstance(custom_id, str) else None,
        "response": {"status_code": status, "request_id": f"req_{token}", "body": body},
        "error": None,
    }
    return BatchAnswer(line.number, entry, body.get("usage", {}), error_message)


def _parse(line: BatchLine) -> Any:
    try:
        return line.parse()
    except ValueError as error:
        raise ApiError(400, f"line {line.number} is not valid JSON: {error}", code="invalid_json") from error
