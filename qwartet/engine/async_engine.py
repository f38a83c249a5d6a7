"""The engine for asyncio: coroutines of one event loop add prompts to the engine's thread and read their completions.

    event loop                                 engine thread (engine_thread.py)
    add, abort ------------------------------> commands
    streams    <-- at most one call a step --- outputs of the steps

Unread output is merged into one per completion, so a slow reader costs no more memory than its completions.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal

from qwartet.engine.engine import Engine, StepOutput, stop_ids
from qwartet.engine.engine_thread import CLOSED, EngineThread, Event, Prompt
from qwartet.engine.request import NO_OPTIONS, FinishReason, Request, RequestOptions, TokenConstraint, TokenLogprobs
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.structure import Structure
from qwartet.errors import EngineFailedError, StructureError

COMPILE_TIMEOUT_S = 10.0  # for a structure; structure_limits.py bounds the worst case to about a second
NUM_COMPILERS = 2  # structures compiled at once


@dataclass
class StreamOutput:
    """What was added to completion `index` of a prompt since the stream's last output for it."""

    index: int
    request: Request  # its prompt and prompt_logprobs are final; its completion grows in the engine's thread
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class CompletionStream:
    """The params.n completions of one prompt: `async for` yields StreamOutputs as they arrive, `collect` waits for all.

    An error of one completion is raised after the output that preceded it, and ends the others; an error of the engine
    is an EngineFailedError. A reader that stops early must call `abort`, or use the stream as a context manager.
    """

    def __init__(
        self,
        num_completions: int,
        on_abort: Callable[[CompletionStream], None],
        on_news: Callable[[], object] | None,
        on_end: Callable[[CompletionStream], None] = lambda stream: None,
        post: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:
        """`on_end`: called when the engine is done with it. `post` runs events of the engine's thread in the event
        loop.
        """
        self.requests: list[Request] = []  # set by the engine's thread
        self.post = post
        self._num_open = num_completions  # that the engine has not ended yet
        self._on_end = on_end
        self._on_abort = on_abort
        self._on_news = on_news
        self._unread: dict[int, StreamOutput] = {}
        self.error: Exception | None = None  # raised after the unread output
        self._has_news = asyncio.Event()
        self._has_ended = asyncio.Event()

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will arrive; unread output may remain."""
        return self._has_ended.is_set()

    def __aiter__(self) -> CompletionStream:
        return self

    async def __anext__(self) -> StreamOutput:
        await self._has_news.wait()
        if self._unread:
            output = self._unread.pop(next(iter(self._unread)))
            if not self._unread and not self.is_finished:
                self._has_news.clear()
            return output
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration

    def take(self) -> list[StreamOutput]:
        """The unread output, without waiting; `on_news` says when to look, `error` what ended the stream."""
        outputs = list(self._unread.values())
        self._unread.clear()
        if not self.is_finished:
            self._has_news.clear()
        return outputs

    async def collect(self) -> list[StreamOutput]:
        """Waits for the end without waking up before; one complete output per completion, in order of index."""
        await self._has_ended.wait()
        return sorted([output async for output in self], key=lambda output: output.index)

    def abort(self) -> None:
        """Ends what is unfinished, with finish_reason "abort"; its blocks are free after the current step."""
        if self._num_open:
            self._on_abort(self)

    async def __aenter__(self) -> CompletionStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()

    # Events from the engine, in the event loop:

    def put(self, index: int, added: StepOutput) -> None:
        """Receives what a step added to completion `index`."""
        if added.finish_reason is not None:
            self._num_open -= 1
            if not self._num_open:
                self._on_end(self)
        if self.error is not None:
            return
        if added.finish_reason == "error":
            assert added.request.error is not None, "a request that ended in an error keeps it"
            self.fail(added.request.error)
            self.abort()
            return
        output = self._unread.setdefault(index, StreamOutput(index, added.request))
        output.token_ids += added.token_ids
        output.text += added.text
        output.logprobs += added.logprobs
        output.finish_reason = added.finish_reason
        if not self._num_open:
            self._has_ended.set()
        self._tell()

    def break_off(self, error: Exception) -> None:
        """Nothing more will arrive."""
        self._num_open = 0
        self._on_end(self)
        if not self.is_finished:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Ends the stream with an error."""
        self.error = error
        self._has_ended.set()
        self._tell()

    def _tell(self) -> None:
        self._has_news.set()
        if self._on_news is not None:
            self._on_news()


class AsyncEngine:
    """Serves coroutines of one event loop; other users of the engine share its steps.

        async with AsyncEngine(llm.engine) as engine:
            async for output in engine.generate(prompt_ids, params, RequestOptions(llm.stop_token_ids)):
                print(output.text, end="")

    All methods but `close` raise EngineFailedError once a step has failed or the engine is closed, and RuntimeError in
    a second event loop.
    """

    def __init__(self, engine: Engine, *, compile_timeout_s: float = COMPILE_TIMEOUT_S) -> None:
        self._engine = engine
        self._thread = EngineThread.of(engine)
        self._compile_timeout_s = compile_timeout_s
        self._lock = threading.Lock()
        self._events: list[Event] = []  # for the event loop; under the lock
        # Owned by the event loop, from the first use on:
        self._open: set[CompletionStream] = set()  # not ended by the engine yet
        self._is_idle = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: Literal["", "drain", "abort"] = ""
        self._compilers: ThreadPoolExecutor | None = None
        self._compiler_places = asyncio.Semaphore(NUM_COMPILERS)
        self._compiling: set[asyncio.Future[TokenConstraint]] = set()

    @property
    def is_healthy(self) -> bool:
        """Whether prompts are served: no step has failed, and the engine is not closed."""
        return self._thread.is_open and not self._closing

    @property
    def num_waiting(self) -> int:
        """Requests that have not started, or were preempted."""
        return self._thread.num_queued + len(self._engine.scheduler.waiting)

    @property
    def num_running(self) -> int:
        """Requests in the current steps."""
        return len(self._engine.scheduler.running)

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, options: RequestOptions = NO_OPTIONS
    ) -> AsyncGenerator[StreamOutput]:
        """The completions of a prompt as they grow, with the arguments and errors of `add`; aborts them on exit."""
        stream = await self.add(prompt_ids, params, options)
        try:
            async for output in stream:
                yield output
        finally:
            stream.abort()

    async def add(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        options: RequestOptions = NO_OPTIONS,
        *,
        on_news: Callable[[], object] | None = None,
    ) -> CompletionStream:
        """Queues a prompt for params.n completions. `on_news`: called in the event loop whenever there is new output.

        RequestError and SettingError are raised before anything is queued. A structure is compiled first, in a thread
        of its own; StructureError when that takes too long.
        """
        self._start()
        self._raise_unless_open()
        self._engine.check(prompt_ids, params, options.first_position)
        if params.structure is not None and options.constraint is None:
            constraint = await self._compile(params.structure, stop_ids(params, options.stop_token_ids))
            options = replace(options, constraint=constraint)
            self._raise_unless_open()
        stream = CompletionStream(params.n, self._abort_stream, on_news, self._forget, self._post)
        self._thread.submit([(stream, Prompt(prompt_ids, params, options))])
        self._open.add(stream)
        self._is_idle.clear()
        return stream

    def abort(self, request: Request) -> None:
        """Ends one unfinished request, with finish_reason "abort"."""
        self._thread.abort(lambda: [request])

    async def close(self, *, drain: bool = False) -> None:
        """Rejects new prompts and ends the open ones (with `drain`, waits for them instead); then ends the engine's
        thread unless others keep it busy.

        A second call without `drain` cuts a drain short.
        """
        if self._closing != "abort":
            self._closing = "drain" if drain else "abort"
        if self._compilers is None:  # never used
            return
        self._check_loop()
        if self._closing == "abort":
            for stream in self._open:
                self._abort_stream(stream)
        self._compilers.shutdown(wait=False)
        if self._open:
            await self._is_idle.wait()
        if self._compiling:
            await asyncio.wait(self._compiling)
        self._compilers.shutdown()
        self._thread.rest()

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _start(self) -> None:
        if self._loop is None and not self._closing:
            self._loop = asyncio.get_running_loop()
            self._compilers = ThreadPoolExecutor(NUM_COMPILERS, thread_name_prefix="qwartet-compile")
        self._check_loop()

    def _check_loop(self) -> None:
        if self._loop not in (None, asyncio.get_running_loop()):
            raise RuntimeError("this AsyncEngine belongs to the event loop that used it first; create one per loop")

    def _raise_unless_open(self) -> None:
        self._engine.raise_failure()
        if self._closing or not self._thread.is_open:
            raise EngineFailedError(CLOSED)

    def _abort_stream(self, stream: CompletionStream) -> None:
        self._thread.abort(lambda: stream.requests)

    async def _compile(self, structure: Structure, stops: frozenset[int]) -> TokenConstraint:
        """Compiles a constraint in another thread; the timeout excludes queueing."""
        await self._compiler_places.acquire()
        try:
            self._raise_unless_open()
            assert self._loop is not None, "_start set it"
            work = self._loop.run_in_executor(self._compilers, self._engine.compile, structure, stops)
        except EngineFailedError:
            self._compiler_places.release()
            raise
        self._compiling.add(work)
        work.add_done_callback(self._free_compiler)  # not earlier: a thread cannot be stopped
        await asyncio.wait({work}, timeout=self._compile_timeout_s)
        if not work.done():
            raise StructureError(f"the structure takes more than {self._compile_timeout_s:g} s to compile; simplify it")
        return work.result()

    def _free_compiler(self, work: asyncio.Future[TokenConstraint]) -> None:
        self._compiling.discard(work)
        self._compiler_places.release()
        if not work.cancelled():
            work.exception()  # marks it as retrieved, in case the waiter is gone

    def _dispatch(self) -> None:
        """Passes events on to their streams."""
        with self._lock:
            events, self._events = self._events, []
        for event in events:
            event()

    def _forget(self, stream: CompletionStream) -> None:
        self._open.discard(stream)
        if not self._open:
            self._is_idle.set()

    def _post(self, events: Sequence[Event]) -> None:
        """Has the event loop call these; one wake-up serves all events posted before it runs."""
        assert self._loop is not None, "_start set it"
        with self._lock:
            is_first = not self._events
            self._events += events
        try:
            if is_first:
                self._loop.call_soon_threadsafe(self._dispatch)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
        if self._loop.is_closed():  # perhaps with a wake-up pending that it will never run
            self._leave()

    def _leave(self) -> None:
        """Ends what is open, in the engine's thread: its readers are gone."""
        self._closing = "abort"
        open_streams, self._open = self._open, set()
        for stream in open_streams:
            self._abort_stream(stream)
        if open_streams:
            self._thread.rest()
