"""What all routes share: the model once it is loaded, the open requests, and the limits on new ones."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from qwartet.openai_api.endpoints import REQUESTS, RESPONSES_PATH, Endpoints
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.exchange import Exchange
from qwartet.openai_api.prepare import Prepared
from qwartet.openai_api.responses_request import AnswerRequest
from qwartet.server.http_body import json_of
from qwartet.server.limits import Limits
from qwartet.server.metrics import Metrics

State = Literal["loading", "ready", "draining", "failed"]
_T = TypeVar("_T")

SMALL_BODY_BYTES = 16 * 1024  # tokenized in place; a larger body in a thread, so that other requests continue
NUM_TOKENIZERS = 2
RETRY_AFTER_S = 1

_REFUSALS: dict[State, tuple[str, str]] = {
    "loading": ("the model is loading; try again soon", "loading"),
    "draining": ("the server is shutting down; try again later, or use another server", "shutting_down"),
    "failed": ("the engine has failed and the server is stopping; try again after a restart", "engine_failed"),
}


class Service:
    """One model, shared by the requests of one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.metrics = Metrics()
        self.started_s = time.time()
        self._endpoints: Endpoints | None = None
        self._is_draining = False
        self._num_admitted = 0  # completions, queued and running
        self._open: dict[Exchange, list[asyncio.TimerHandle]] = {}
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._tokenizers = ThreadPoolExecutor(NUM_TOKENIZERS, thread_name_prefix="qwartet-tokenize")

    @property
    def state(self) -> State:
        """The state that /health/ready reports."""
        if self._is_draining:
            return "draining"
        if self._endpoints is None:
            return "loading"
        return "ready" if self._endpoints.engine.is_healthy else "failed"

    @property
    def endpoints(self) -> Endpoints:
        """The model; ApiError 503 while it is not loaded, or while new requests are not accepted."""
        state = self.state
        if state != "ready" or self._endpoints is None:
            message, code = _REFUSALS[state]
            raise ApiError(503, message, code=code, retry_after_s=RETRY_AFTER_S)
        return self._endpoints

    @property
    def num_open(self) -> int:
        """Number of requests without a complete answer."""
        return len(self._open)

    @property
    def any_endpoints(self) -> Endpoints:
        """The model, whatever its state, for requests that were already accepted."""
        assert self._endpoints is not None, "no request begins before the model is loaded"
        return self._endpoints

    def open(self, endpoints: Endpoints) -> None:
        """Called when the model is loaded."""
        self._endpoints = endpoints
        self.metrics.watch(endpoints.engine, endpoints.llm.engine)

    async def begin(self, path: str, raw: bytes, *, cache_salt: str) -> Exchange:
        """Queues a request; its exchange must be passed to `end`. ApiError if it cannot be served."""
        endpoints = self.endpoints
        self._check_room(1)

        def prepare(body: Any) -> tuple[AnswerRequest, Prepared]:
            request = endpoints.parse(REQUESTS[path], body)
            return request, endpoints.prepare(request, cache_salt=cache_salt)

        # A short body may continue a long stored response.
        small_bytes = 0 if path == RESPONSES_PATH else SMALL_BODY_BYTES
        request, prepared = await self.run_sized(raw, prepare, small_bytes=small_bytes)
        num_completions = len(prepared.prompts) * prepared.params.n
        if num_completions > self.limits.max_completions:
            message = f"{num_completions} completions requested; the maximum is {self.limits.max_completions}"
            is_of_prompts = len(prepared.prompts) > self.limits.max_completions or prepared.params.n == 1
            raise ApiError(400, message, param="prompt" if is_of_prompts else "n", code="invalid_value")
        self._check_room(num_completions)
        self._num_admitted += num_completions
        self._is_idle.clear()
        try:
            exchange = await endpoints.begin(request, prepared, cache_salt=cache_salt)
        except BaseException as error:
            self._release(num_completions)
            if isinstance(error, Exception):
                raise endpoints.api_error(error, request) from error
            raise
        self._open[exchange] = self._timers(exchange)
        return exchange

    def end(self, exchange: Exchange, arrived_s: float) -> None:
        """Ends and counts an exchange; `arrived_s` in time.monotonic() seconds."""
        exchange.abort()
        for timer in self._open.pop(exchange):
            timer.cancel()
        self._release(exchange.num_completions)
        self.metrics.count_exchange(exchange, arrived_s, time.monotonic())

    async def run_sized(self, raw: bytes, work: Callable[[Any], _T], *, small_bytes: int = SMALL_BODY_BYTES) -> _T:
        """The result of `work` on the JSON value of a body; runs in a thread if the body is large."""
        if len(raw) <= small_bytes:
            return work(json_of(raw))
        context = contextvars.copy_context()  # holds the request id for the log
        return await asyncio.get_running_loop().run_in_executor(
            self._tokenizers, lambda: context.run(lambda: work(json_of(raw)))
        )

    def drain(self) -> None:
        """Rejects new requests from now on."""
        self._is_draining = True

    async def wait_until_idle(self) -> None:
        """Waits until no request is open."""
        await self._is_idle.wait()

    def fail_all(self, message: str, code: str) -> None:
        """Ends all open requests with an error."""
        for exchange in list(self._open):
            exchange.fail(ApiError(503, message, code=code))

    async def close(self) -> None:
        """Stops the engine and all open requests."""
        self.drain()
        self._tokenizers.shutdown(wait=False, cancel_futures=True)
        if self._endpoints is not None:
            await self._endpoints.engine.close()

    def _check_room(self, num_completions: int) -> None:
        """ApiError 429 if engine and queue have no room for this many completions."""
        running = self.endpoints.llm.engine.scheduler.max_num_seqs
        if self._num_admitted + num_completions > max(running + self.limits.max_queue, num_completions):
            message = (
                f"{self._num_admitted} completions are running or queued, and the queue holds at most "
                f"{self.limits.max_queue}; try again later"
            )
            raise ApiError(429, message, code="queue_full", retry_after_s=RETRY_AFTER_S)

    def _release(self, num_completions: int) -> None:
        self._num_admitted -= num_completions
        if not self._num_admitted:
            self._is_idle.set()

    def _timers(self, exchange: Exchange) -> list[asyncio.TimerHandle]:
        """Timers that end the exchange if it takes too long, in the queue or in total."""
        limits, loop = self.limits, asyncio.get_running_loop()

        def queue_timeout() -> None:
            if not exchange.has_begun:
                message = f"the request timed out in the queue after {limits.queue_timeout_s:g} s; try again later"
                exchange.fail(ApiError(503, message, code="queue_timeout", retry_after_s=RETRY_AFTER_S))

        def request_timeout() -> None:
            message = f"the answer was not complete after {limits.request_timeout_s:g} s; request fewer tokens"
            exchange.fail(ApiError(504, message, code="request_timeout"))

        return [
            loop.call_later(limits.queue_timeout_s, queue_timeout),
            loop.call_later(limits.request_timeout_s, request_timeout),
        ]
