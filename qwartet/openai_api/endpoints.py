"""From a JSON body to an answer: what the endpoints do, for the server and for batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from qwartet.engine.async_engine import AsyncEngine
from qwartet.engine.request import RequestOptions
from qwartet.errors import EngineFailedError
from qwartet.llm import LLM
from qwartet.openai_api.error import ApiError, api_error_of, validated
from qwartet.openai_api.exchange import Exchange
from qwartet.openai_api.log import log_failure
from qwartet.openai_api.prepare import Prepared, check_text, field_of, prepare_chat, prepare_completion
from qwartet.openai_api.protocol import ChatCompletionRequest, CompletionRequest, RequestBody
from qwartet.openai_api.response_store import ResponseStore
from qwartet.openai_api.responses_request import AnswerRequest, ResponsesRequest
from qwartet.openai_api.responses_to_chat import prepare_response

CHAT_PATH, COMPLETION_PATH, RESPONSES_PATH = "/v1/chat/completions", "/v1/completions", "/v1/responses"
REQUESTS: dict[str, type[AnswerRequest]] = {
    CHAT_PATH: ChatCompletionRequest,
    COMPLETION_PATH: CompletionRequest,
    RESPONSES_PATH: ResponsesRequest,
}
UNFORESEEN = ("internal_error", "out_of_memory")
_Body = TypeVar("_Body", bound=RequestBody)


class Endpoints:
    """One model under its names, and its adapters under theirs; answers state the first if the request names none."""

    def __init__(
        self, llm: LLM, engine: AsyncEngine, model_names: Sequence[str], responses: ResponseStore | None = None
    ) -> None:
        """`engine` owns llm.engine; without `responses` none are stored."""
        self.llm = llm
        self.engine = engine
        self.own_names = tuple(model_names)
        self.responses = ResponseStore(0) if responses is None else responses

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The names of adapters that no name of the model hides."""
        return tuple(name for name in self.llm.engine.adapters.numbers if name not in self.own_names)

    @property
    def model_names(self) -> tuple[str, ...]:
        """All names that a request may use."""
        return self.own_names + self.adapter_names

    async def answer(self, path: str, body: Any) -> dict[str, Any]:
        """The response object for a body parsed from JSON.

        ApiError if the request is wrong or fails; EngineFailedError if the engine fails.
        """
        if path not in REQUESTS:
            raise ApiError(404, f"no such endpoint: {path!r:.80}; use one of {', '.join(REQUESTS)}", code="unknown_url")
        request = self.parse(REQUESTS[path], body)
        if request.stream:
            raise ApiError(
                400, "stream: true is not supported here; leave it out", param="stream", code="invalid_value"
            )
        try:
            async with await self.begin(request, self.prepare(request)) as exchange:
                return await exchange.whole(lambda answer: answer.model_dump())
        except EngineFailedError:
            raise
        except Exception as error:  # any failure of one request, our own bugs included, goes to its sender
            raise self.api_error(error, request) from error

    def parse(self, kind: type[_Body], body: Any) -> _Body:
        """A body as a `kind`; ApiError if it is not one, or names another model."""
        request = validated(kind, body)
        self.model_name(request.model)
        return request

    def prepare(self, request: AnswerRequest, *, cache_salt: str = "") -> Prepared:
        """Prompt ids and settings; thread-safe. ApiError if the request cannot be served."""
        try:
            if isinstance(request, ResponsesRequest):
                self.responses.resolve(request, cache_salt)
                return prepare_response(self.llm, request)
            check_text(self.llm, request)
            if isinstance(request, ChatCompletionRequest):
                return prepare_chat(self.llm, request)
            return prepare_completion(self.llm, request)
        except Exception as error:
            raise self.api_error(error, request) from error

    async def begin(self, request: AnswerRequest, prepared: Prepared, *, cache_salt: str = "") -> Exchange:
        """Queues a request; the caller must end the exchange. `cache_salt`: see RequestOptions."""
        exchange = Exchange(self.llm, request, self.model_name(request.model), prepared)
        if isinstance(request, ResponsesRequest) and request.is_stored:
            exchange.on_response = partial(self.responses.put, request, salt=cache_salt)
        thinking = prepared.reading.thinking
        options = RequestOptions(self.llm.stop_token_ids, cache_salt=cache_salt, thinking=thinking)
        params = prepared.params
        if request.model in self.adapter_names:
            params = replace(params, adapter=request.model)
        try:
            for prompt_ids in prepared.prompts:
                stream = await self.engine.add(prompt_ids, params, options, on_news=exchange.wake)
                exchange.add(stream)
        except BaseException:
            exchange.abort()
            raise
        return exchange

    def api_error(self, error: Exception, request: RequestBody) -> ApiError:
        """The error that the client sees; an unexpected one is logged."""
        told = api_error_of(error, field_of(request, getattr(error, "param", None)))
        if told.code in UNFORESEEN and told is not error:
            log_failure(f"a {type(request).__name__}", error)
        return told

    def model_name(self, asked: str | None) -> str:
        """The name that the answer states; ApiError for a model that is not served."""
        if asked is not None and asked not in self.model_names:
            message = f"the model {asked!r:.80} is not served here; available: {', '.join(self.model_names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return asked or self.model_names[0]
