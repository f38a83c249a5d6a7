"""The life of a server: open the port, load the model, serve, shut down gracefully.

port open, /health 503 "loading"  ->  "ready"  ->  SIGTERM: "draining", open requests are finished
                                               ->  a second signal, or shutdown_timeout_s: open requests are aborted
                                               ->  the engine fails: "failed" for a moment, then exit code 1
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.types import ASGIApp

from qwartet.checkpoint.safetensors_file import shown
from qwartet.engine.async_engine import AsyncEngine
from qwartet.llm import LLM
from qwartet.openai_api.endpoints import Endpoints
from qwartet.openai_api.log import log_failure, logger
from qwartet.openai_api.response_store import ResponseStore
from qwartet.server.connection import Connection
from qwartet.server.limits import MAX_HEADER_BYTES, Limits
from qwartet.server.service import Service
from qwartet.server.stderr import drain_stderr

FAILED_GRACE_S = 5.0  # for probes to see that the engine has failed
ABORT_GRACE_S = 2.0  # for clients to receive the error
_POLL_S = 0.2
T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(
    app: ASGIApp,
    service: Service,
    listener: socket.socket,
    load: Callable[[], LLM],
    model_names: Sequence[str],
    ssl_certfile: Path | None = None,
    ssl_keyfile: Path | None = None,
) -> int:
    """Serves until a signal or an engine failure; returns the exit code. Raises what `load` raises."""
    server = HttpServer(app, listener, service.limits, ssl_certfile, ssl_keyfile)
    return run_loop(_Life(server, service).run(load, model_names))


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, with uvloop if it is installed, which makes each stream event a sixth cheaper."""
    with asyncio.Runner(loop_factory=_new_event_loop()) as runner:
        return runner.run(main)


def _new_event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None  # asyncio's own
    return uvloop.new_event_loop


class HttpServer:
    """uvicorn on a socket, without its own signal handlers and logs."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        limits: Limits,
        ssl_certfile: Path | None = None,
        ssl_keyfile: Path | None = None,
    ) -> None:
        """Closes `listener` when it stops."""
        config = uvicorn.Config(
            app, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES, proxy_headers=False,
            timeout_graceful_shutdown=int(ABORT_GRACE_S), ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile,
            timeout_keep_alive=limits.keep_alive_s,  # type: ignore[arg-type]  # fractions of a second work too
        )  # fmt: skip
        self._server, self._listener = _Uvicorn(config), listener

    @property
    def num_connections(self) -> int:
        """Number of open connections."""
        return len(self._server.server_state.connections)

    async def serve(self) -> None:
        """Serves until `stop`."""
        await self._server.serve(sockets=[self._listener])

    async def stop(self, serving: asyncio.Task[None]) -> None:
        """Ends `serve`; open connections get ABORT_GRACE_S."""
        self._server.should_exit = True
        await serving


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Life:
    def __init__(self, server: HttpServer, service: Service) -> None:
        self._server, self._service = server, service
        self._is_stopping = asyncio.Event()  # a first signal
        self._is_hurried = asyncio.Event()  # a second one

    async def run(self, load: Callable[[], LLM], model_names: Sequence[str]) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_loop_failure)
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        serving = asyncio.create_task(self._server.serve())
        try:
            return await self._live(load, model_names)
        finally:
            await self._server.stop(serving)
            await self._service.close()

    async def _live(self, load: Callable[[], LLM], model_names: Sequence[str]) -> int:
        loading = _in_thread(load)
        await _first(asyncio.shield(asyncio.wrap_future(loading)), self._is_stopping.wait())
        if not loading.done():
            # The loading thread cannot be stopped, and there is nothing to lose.
            logger.info("stopped while loading the model")
            drain_stderr()
            os._exit(0)
        llm = loading.result()
        engine = AsyncEngine(llm.engine)
        stored = ResponseStore(self._service.limits.response_store_bytes)
        self._service.open(Endpoints(llm, engine, model_names, stored))
        if numbers := llm.engine.adapters.numbers:
            size = llm.engine.adapters.num_bytes / 2**20
            logger.info("LoRA adapters: %s (%.0f MiB)", ", ".join(map(shown, numbers)), size)
        gc.collect()
        gc.freeze()  # keeps later collections from scanning the model, which took 90 ms each
        logger.info("ready")
        while not self._is_stopping.is_set():
            if not engine.is_healthy:
                if llm.engine.failure is not None:
                    log_failure("the engine", llm.engine.failure)
                logger.error("the engine has failed; stopping")
                await asyncio.sleep(FAILED_GRACE_S)
                return 1
            await _first(self._is_stopping.wait(), asyncio.sleep(_POLL_S))
        await self._drain()
        return 0

    async def _drain(self) -> None:
        service = self._service
        service.drain()
        logger.info("stopping; a second signal aborts open requests")
        drained = _first(service.wait_until_idle(), self._is_hurried.wait())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(drained, service.limits.shutdown_timeout_s)
        service.fail_all("the server was stopped; try again later, or use another server", "shutting_down")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(service.wait_until_idle(), ABORT_GRACE_S)

    def _on_signal(self) -> None:
        (self._is_hurried if self._is_stopping.is_set() else self._is_stopping).set()


def _log_loop_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs an unhandled error without its text, which may be a prompt."""
    error = context.get("exception")
    if error is None:
        logger.error("%s", context.get("message"))
    else:
        log_failure("a callback of the event loop", error)


async def _first(*waits: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> None:
    """Waits until one is done and cancels the others."""
    tasks = [asyncio.ensure_future(one) for one in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _in_thread(load: Callable[[], LLM]) -> Future[LLM]:
    """The result of `load`, run in a thread that does not keep the process alive."""
    found: Future[LLM] = Future()

    def work() -> None:
        try:
            found.set_result(load())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=work, name="qwartet-load", daemon=True).start()
    return found
