"""Servers under test: one in this process, which a test may break, and one in its own process."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from qwartet import LLM
from qwartet.engine.async_engine import AsyncEngine
from qwartet.openai_api.endpoints import Endpoints
from qwartet.openai_api.response_store import ResponseStore
from qwartet.server.access import Access
from qwartet.server.app import make_app
from qwartet.server.limits import Limits
from qwartet.server.listener import bind
from qwartet.server.run import HttpServer, run_loop
from qwartet.server.service import Service
from tests.forked import Piped

ROOT = Path(__file__).parents[2]
MODEL = "demo"
HELLO = [{"role": "user", "content": "hello"}]
T = TypeVar("T")


class RunningServer:
    """A server in a thread of this process.

    with RunningServer(llm) as server:
        server.post("/v1/chat/completions", messages=HELLO)
    """

    def __init__(
        self,
        llm: LLM,
        *,
        limits: Limits | None = None,
        access: Access | None = None,
        is_loaded: bool = True,
        model_name: str = MODEL,
        **app: Any,
    ) -> None:
        self.llm = llm
        self.service = Service(limits or Limits())
        self.engine: AsyncEngine | None = None
        self.loop_errors: list[dict[str, Any]] = []  # what no part of the server has handled
        self._is_loaded, self._model_name = is_loaded, model_name
        self._listener = bind("127.0.0.1", 0, 60)  # the system does not come first
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = make_app(self.service, access or Access(), has_access_log=True, **app)
        self._has_started = threading.Event()
        self._thread = threading.Thread(target=lambda: run_loop(self._main()), name="test-server")

    def __enter__(self) -> RunningServer:
        self._thread.start()
        assert self._has_started.wait(30), "the server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._should_stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not stop"
        assert not self.loop_errors, self.loop_errors

    async def _main(self) -> None:
        self.loop, self._should_stop = asyncio.get_running_loop(), asyncio.Event()
        self.loop.set_exception_handler(lambda _, context: self.loop_errors.append(context))
        server = self._server = HttpServer(self.app, self._listener, self.service.limits)
        serving = asyncio.create_task(server.serve())
        if self._is_loaded:
            self.open()
        self._has_started.set()
        await self._should_stop.wait()
        await server.stop(serving)
        await self.service.close()
        gc.collect(1)  # an exception that nobody took is told when its task goes

    def open(self) -> None:
        """The model is loaded from now on; in the server's loop."""
        self.engine = AsyncEngine(self.llm.engine)
        stored = ResponseStore(self.service.limits.response_store_bytes)
        self.service.open(Endpoints(self.llm, self.engine, [self._model_name], stored))

    @property
    def num_connections(self) -> int:
        """Clients that are connected; to be asked in the server's loop."""
        return self._server.num_connections

    def call(self, function: Callable[[], T]) -> T:
        """What a function gives in the server's loop."""

        async def work() -> T:
            return function()

        return self.run(work())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def post(self, path: str, *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=headers, timeout=60)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def chat(self, **body: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", **{"messages": HELLO, "temperature": 0, **body})

    def is_idle(self) -> bool:
        """Whether nothing is open, and no block of the cache is in use."""
        blocks, scheduler = self.llm.engine.block_manager, self.llm.engine.scheduler
        return (
            not self.service.num_open
            and not scheduler.running
            and not scheduler.waiting
            and blocks.num_free_blocks == blocks.num_blocks
        )

    def metric(self, name: str, **labels: str) -> float:
        """A figure of /metrics; 0 where nothing was counted yet."""
        wanted = f"{name}{{{','.join(f'{key}={value!r}' for key, value in labels.items())}}}".replace("'", '"')
        for line in self.get("/metrics").text.splitlines():
            what, _, value = line.rpartition(" ")
            if what == (wanted if labels else name):
                return float(value)
        return 0.0


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits until something holds that another thread brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; "[DONE]" is a string."""
    found = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in found]


def text_of(chunks: Sequence[Any], index: int = 0) -> str:
    """The text of a choice in the events of a chat's stream."""
    choices = [choice for chunk in chunks if chunk != "[DONE]" for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices if choice["index"] == index)


@contextmanager
def spawned(*options: str, env: dict[str, str] | None = None) -> Iterator[tuple[Piped, str]]:
    """`qwartet serve --port 0` as a process, and its URL; it is killed at the end if it still runs."""
    with Piped(["serve", "--port", "0", *options], os.environ | (env or {})) as process:
        yield process, process.stderr.readline().decode().split(" ")[0].strip()
