"""A JSON body in, a JSON answer out: what the two endpoints do when they do not stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from pydantic import ValidationError

from qwartet.engine.async_engine import AsyncEngine, StreamOutput
from qwartet.errors import EngineFailedError, QwartetError
from qwartet.llm import LLM
from qwartet.server.answer import chat_completion, completion
from qwartet.server.api_error import ApiError, api_error_of, validation_api_error
from qwartet.server.prepare import Prepared, prepare_chat, prepare_completion
from qwartet.server.protocol import ChatCompletionRequest, CompletionRequest

logger = logging.getLogger(__name__)

CHAT_PATH, COMPLETION_PATH = "/v1/chat/completions", "/v1/completions"
REQUESTS: dict[str, type[ChatCompletionRequest] | type[CompletionRequest]] = {
    CHAT_PATH: ChatCompletionRequest,
    COMPLETION_PATH: CompletionRequest,
}


class Endpoints:
    """One model under its names; the first is the one that answers are signed with where a request names none."""

    def __init__(self, llm: LLM, engine: AsyncEngine, model_names: Sequence[str]) -> None:
        """`engine` owns llm.engine."""
        self.llm = llm
        self.engine = engine
        self.model_names = tuple(model_names)

    async def answer(self, path: str, body: Any) -> dict[str, Any]:
        """The response object to a body that was read from JSON.

        ApiError says what is wrong with it, or that it failed; EngineFailedError where it is not to blame.
        """
        if path not in REQUESTS:
            raise ApiError(404, f"there is no {path!r:.80}; there are {', '.join(REQUESTS)}", code="unknown_url")
        try:
            request = REQUESTS[path].model_validate(body)
        except ValidationError as error:
            raise validation_api_error(error, body, REQUESTS[path]) from error
        try:
            return await self._answer(request)
        except EngineFailedError:
            raise
        except Exception as error:  # a failure of one request, our own included, is told to its sender
            if not isinstance(error, ApiError | QwartetError):
                logger.error("a request to %s failed", path, exc_info=error)
            raise api_error_of(error, REQUESTS[path]) from error

    async def _answer(self, request: ChatCompletionRequest | CompletionRequest) -> dict[str, Any]:
        if request.stream:
            raise ApiError(
                400, "stream is true, and here is no stream; leave it out", param="stream", code="invalid_value"
            )
        model = self._model_name(request.model)
        if isinstance(request, ChatCompletionRequest):
            prepared = prepare_chat(self.llm, request)
            outputs = (await self._complete(prepared))[0]
            return chat_completion(self.llm, model, prepared, outputs).model_dump()
        prepared = prepare_completion(self.llm, request)
        return completion(self.llm, model, prepared, await self._complete(prepared)).model_dump()

    def _model_name(self, asked: str | None) -> str:
        if asked is not None and asked not in self.model_names:
            message = f"the model {asked!r:.80} is not served here; there is {', '.join(self.model_names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return asked or self.model_names[0]

    async def _complete(self, prepared: Prepared) -> list[list[StreamOutput]]:
        """The whole outputs of each prompt; whatever stops this ends what is open."""
        async with AsyncExitStack() as open_streams:
            streams = []
            for prompt_ids in prepared.prompts:
                stream = await self.engine.add(prompt_ids, prepared.params, stop_token_ids=self.llm.stop_token_ids)
                streams.append(await open_streams.enter_async_context(stream))
            outputs = await asyncio.gather(*(stream.collect() for stream in streams))
        if any(output.finish_reason == "abort" for some in outputs for output in some):
            raise EngineFailedError("the engine was closed before the answer was whole; send the request again")
        return outputs
