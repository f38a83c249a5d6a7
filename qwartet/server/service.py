"""What all routes share: the model once it is loaded, who is being answered, and whether one more may come."""

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

SMALL_BODY_BYTES = 16 * 1024  # turned into ids at once; a larger one in a thread, so that the others go on
NUM_TOKENIZERS = 2
RETRY_AFTER_S = 1

_REFUSALS: dict[State, tuple[str, str]] = {
    "loading": ("the model is being loaded; try again soon", "loading"),
    "draining": ("the server is shutting down; send the request elsewhere", "shutting_down"),
    "failed": ("the engine has failed, and the server will stop; try again when it was started anew", "engine_failed"),
}


class Service:
    """One model for the requests of one event loop."""

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
        """What /health/ready tells."""
        if self._is_draining:
            return "draining"
        if self._endpoints is None:
            return "loading"
        return "ready" if self._endpoints.engine.is_healthy else "failed"

    @property
    def endpoints(self) -> Endpoints:
        """The model; ApiError 503 while there is none, or no more than the requests that are open get an answer."""
        state = self.state
        if state != "ready" or self._endpoints is None:
            message, code = _REFUSALS[state]
            raise ApiError(503, message, code=code, retry_after_s=RETRY_AFTER_S)
        return self._endpoints

    @property
    def num_open(self) -> int:
        """Requests that the engine has or gets, and that have no whole answer yet."""
        return len(self._open)

    @property
    def any_endpoints(self) -> Endpoints:
        """The model, whatever has become of it: for those whose requests it has taken."""
        assert self._endpoints is not None, "nothing is begun before the model is loaded"
        return self._endpoints

    def open(self, endpoints: Endpoints) -> None:
        """The model is loaded."""
        self._endpoints = endpoints
        self.metrics.watch(endpoints.engine, endpoints.llm.engine)

    async def begin(self, path: str, raw: bytes, *, cache_salt: str) -> Exchange:
        """Queues the body of a request; the exchange has to be given to `end`. ApiError where it cannot be served."""
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
            message = f"{num_completions} completions are asked for; at most {self.limits.max_completions} are possible"
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
        """Ends and counts it; `arrived_s` in time.monotonic() seconds."""
        exchange.abort()
        for timer in self._open.pop(exchange):
            timer.cancel()
        self._release(exchange.num_completions)
        self.metrics.count_exchange(exchange, arrived_s, time.monotonic())

    async def run_sized(self, raw: bytes, work: Callable[[Any], _T], *, small_bytes: int = SMALL_BODY_BYTES) -> _T:
        """What `work` makes of the JSON value of a body: here where the body is short, else in a thread."""
        if len(raw) <= small_bytes:
            return work(json_of(raw))
        context = contextvars.copy_context()  # in which the log finds the request's id
        return await asyncio.get_running_loop().run_in_executor(
            self._tokenizers, lambda: context.run(lambda: work(json_of(raw)))
        )

    def drain(self) -> None:
        """Refuses what comes from now on."""
        self._is_draining = True

    async def wait_until_idle(self) -> None:
        """Until nothing is being answered."""
        await self._is_idle.wait()

    def fail_all(self, message: str, code: str) -> None:
        """Ends everything that is open with an error."""
        for exchange in list(self._open):
            exchange.fail(ApiError(503, message, code=code))

    async def close(self) -> None:
        """Ends the engine, and with it what is still open."""
        self.drain()
        self._tokenizers.shutdown(wait=False, cancel_futures=True)
        if self._endpoints is not None:
            await self._endpoints.engine.close()

    def _check_room(self, num_completions: int) -> None:
        """ApiError 429 where neither the engine nor the queue has a place for so many more."""
        running = self.endpoints.llm.engine.scheduler.max_num_seqs
        if self._num_admitted + num_completions > max(running + self.limits.max_queue, num_completions):
            message = (
                f"{self._num_admitted} completions are running or waiting, and at most {self.limits.max_queue} may "
                "wait; try again later"
            )
            raise ApiError(429, message, code="queue_full", retry_after_s=RETRY_AFTER_S)

    def _release(self, num_completions: int) -> None:
        self._num_admitted -= num_completions
        if not self._num_admitted:
            self._is_idle.set()

    def _timers(self, exchange: Exchange) -> list[asyncio.TimerHandle]:
        """What ends the exchange when it takes too long, in the queue or as a whole."""
        limits, loop = self.limits, asyncio.get_running_loop()

        def queue_timeout() -> None:
            if not exchange.has_begun:
                message = f"no place was free within {limits.queue_timeout_s:g} s; try again later"
                exchange.fail(ApiError(503, message, code="queue_timeout", retry_after_s=RETRY_AFTER_S))

        def request_timeout() -> None:
            message = f"the answer was not whole after {limits.request_timeout_s:g} s; ask for fewer tokens"
            exchange.fail(ApiError(504, message, code="request_timeout"))

        return [
            loop.call_later(limits.queue_timeout_s, queue_timeout),
            loop.call_later(limits.request_timeout_s, request_timeout),
        ]
