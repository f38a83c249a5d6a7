"""One request in flight: the engine's output for it, complete or streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel

from qwartet.engine.async_engine import CompletionStream, StreamOutput
from qwartet.errors import EngineFailedError
from qwartet.llm import LLM
from qwartet.openai_api.answer import chat_completion, completion
from qwartet.openai_api.answer_objects import ChatCompletion, Completion
from qwartet.openai_api.chunks import ChatChunks, CompletionChunks
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.prepare import Prepared
from qwartet.openai_api.protocol import ChatCompletionRequest, CompletionRequest
from qwartet.openai_api.responses_answer import ResponseEvents, ResponseObject, response_object
from qwartet.openai_api.responses_request import AnswerRequest, ResponsesRequest

T = TypeVar("T")
Answer = ChatCompletion | Completion | ResponseObject
FIGURES_AT_ONCE = 500  # log-probabilities written on the event loop, about 5 ms; more go to a thread
CLOSED = "the engine was closed before the answer was complete; send the request again"


class Exchange:
    """A queued request; its answer is taken once, as `whole` or as `chunks`.

    The owner ends it with `abort`, or uses it as a context manager. Errors of the engine are raised where the answer is
    taken; EngineFailedError also if the engine was closed.
    """

    def __init__(self, llm: LLM, request: AnswerRequest, model: str, prepared: Prepared) -> None:
        """`model`: the name that the answer states."""
        self.request = request
        self.prepared = prepared
        self.first_token_s: float | None = None  # as time.monotonic()
        self.token_gaps_s: list[float] = []  # between outputs of one choice, since they were last taken
        self._llm, self._model = llm, model
        self._streams: list[CompletionStream] = []
        self.on_response: Callable[[ResponseObject], None] = lambda response: None  # called before it is sent
        self._is_awake = asyncio.Event()
        self._chunks: ChatChunks | CompletionChunks | ResponseEvents | None = None

    @property
    def is_response(self) -> bool:
        """Whether it answers /v1/responses, whose streams end with an event of their own."""
        return isinstance(self.request, ResponsesRequest)

    def add(self, stream: CompletionStream) -> None:
        """Adds the next prompt's completions."""
        self._streams.append(stream)

    @property
    def has_begun(self) -> bool:
        """Whether the engine has started on any of it."""
        return any(
            request.block_table or request.is_finished for stream in self._streams for request in stream.requests
        )

    @property
    def num_completions(self) -> int:
        return len(self._streams) * self.prepared.params.n

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prepared.prompts))

    @property
    def num_completion_tokens(self) -> int:
        """Tokens made so far."""
        return sum(len(request.completion_ids) for stream in self._streams for request in stream.requests)

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens computed by earlier requests."""
        return sum(stream.requests[0].num_cached_tokens for stream in self._streams if stream.requests)

    @property
    def finish_reasons(self) -> list[str]:
        """Of the completions, once the exchange has ended; one without a reason yet is about to be aborted."""
        reasons: list[str] = [
            request.finish_reason or "abort" for stream in self._streams for request in stream.requests
        ]
        return reasons + ["abort"] * (self.num_completions - len(reasons))

    async def whole(self, form: Callable[[Answer], T]) -> T:
        """What `form` makes of the response object; both run in a thread if the answer is large."""
        outputs = await asyncio.gather(*(stream.collect() for stream in self._streams))
        if any(output.finish_reason == "abort" for some in outputs for output in some):
            raise EngineFailedError(CLOSED)
        if self._num_figures <= FIGURES_AT_ONCE:
            return form(self._response(outputs))
        return await asyncio.to_thread(lambda: form(self._response(outputs)))

    def _response(self, outputs: list[list[StreamOutput]]) -> Answer:
        if isinstance(self.request, CompletionRequest):
            return completion(self._llm, self._model, self.prepared, outputs)
        if isinstance(self.request, ResponsesRequest):
            response = response_object(self.request, self._llm, self._model, self.prepared, outputs[0][0])
            self.on_response(response)
            return response
        return chat_completion(self._llm, self._model, self.prepared, outputs[0])

    @property
    def _num_figures(self) -> int:
        """Roughly how many log-probabilities a complete answer contains."""
        params = self.prepared.params
        num_tokens = self.num_completion_tokens + (0 if params.prompt_logprobs is None else self.num_prompt_tokens)
        return 0 if params.logprobs is None else num_tokens * (1 + params.logprobs)

    async def chunks(self) -> AsyncGenerator[Sequence[BaseModel]]:
        """The chunk objects as they are made, grouped by step; an empty group after a call of `wake`."""
        chunks = self._chunks = self._new_chunks()
        yield chunks.beginning()
        async for outputs in self._outputs():
            whole = [(index, output) for index, output in outputs if output.finish_reason != "abort"]
            yield [chunk for index, output in whole for chunk in chunks.of(index, output)]
            if len(whole) < len(outputs):
                raise EngineFailedError(CLOSED)
        ending = chunks.ending(self._totals())
        if isinstance(chunks, ResponseEvents):
            self.on_response(chunks.response)
        if ending:
            yield ending

    def _new_chunks(self) -> ChatChunks | CompletionChunks | ResponseEvents:
        if isinstance(self.request, ResponsesRequest):
            return ResponseEvents(self.request, self._llm, self._model, self.prepared)
        kind = ChatChunks if isinstance(self.request, ChatCompletionRequest) else CompletionChunks
        return kind(self._llm, self._model, self.prepared, self.request.stream_options)

    def broken_off(self, error: ApiError) -> BaseModel:
        """The object that ends a stream that breaks off."""
        if isinstance(self._chunks, ResponseEvents):
            return self._chunks.failure(error)
        return error.to_object()

    def wake(self) -> None:
        """Makes `chunks` yield now, even if there is nothing new."""
        self._is_awake.set()

    def fail(self, error: Exception) -> None:
        """Ends what is unfinished; `error` is raised where the answer is taken, after earlier output."""
        for stream in self._streams:
            if not stream.is_finished:
                stream.fail(error)
        self.abort()

    def abort(self) -> None:
        """Ends what is unfinished."""
        for stream in self._streams:
            stream.abort()

    async def __aenter__(self) -> Exchange:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()

    async def _outputs(self) -> AsyncGenerator[list[tuple[int, StreamOutput]]]:
        """The outputs of all streams, each with the index of its choice."""
        num_each = self.prepared.params.n
        last_s: dict[int, float] = {}
        is_last = False
        while not is_last:
            await self._is_awake.wait()
            self._is_awake.clear()
            outputs = [
                (place * num_each + output.index, output)
                for place, stream in enumerate(self._streams)
                for output in stream.take()
            ]
            is_last = all(stream.is_finished for stream in self._streams)
            error = next((stream.error for stream in self._streams if stream.error is not None), None)
            for index, _ in outputs:
                self._note_time(index, last_s)
            yield outputs
            if error is not None:
                raise error

    def _note_time(self, index: int, last_s: dict[int, float]) -> None:
        now = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = now
        if index in last_s:
            self.token_gaps_s.append(now - last_s[index])
        last_s[index] = now

    def _totals(self) -> list[list[StreamOutput]]:
        """Each completion's ids, to count usage from."""
        return [
            [StreamOutput(index, request, token_ids=request.completion_ids) for index, request in enumerate(requests)]
            for requests in (stream.requests for stream in self._streams)
        ]
