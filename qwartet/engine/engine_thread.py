"""The thread that owns an engine and runs its steps, for any number of threads and an event loop at the same time.

    callers                                engine thread
    submit, end, call -- commands -------> add_requests, finish, work between two steps
                                           step, while a request is open; else wait
    sinks      <-------------------------- outputs of each step

The thread starts with the first command. While it waits it holds no reference to the engine: an unreferenced engine is
freed at once, and its thread ends.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, finalize, ref

import torch

from qwartet.engine.engine import Engine, StepOutput
from qwartet.engine.one_thread import take_threads
from qwartet.engine.request import NO_OPTIONS, Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import EngineFailedError

THREAD_NAME = "qwartet-engine"
CLOSED = "the engine is closed; create a new one"
FORKED = "the process was forked during a step; load the model in the child"
T = TypeVar("T")
Event = Callable[[], object]


class Sink(Protocol):
    """Receives the completions of one prompt; the engine's thread calls only `post`."""

    requests: list[Request]  # set by the engine's thread

    @property
    def post(self) -> Callable[[Sequence[Event]], None]:
        """Runs events where the sink lives. Sinks that share a `post` get the events of a step in one call."""
        ...

    def put(self, index: int, added: StepOutput) -> None:
        """An event: what a step added to completion `index`."""
        ...

    def break_off(self, error: Exception) -> None:
        """An event: nothing more will arrive."""
        ...


@dataclass(frozen=True)
class Prompt:
    """A prompt for params.n completions."""

    ids: Sequence[int]
    params: SamplingParams
    options: RequestOptions = NO_OPTIONS


class EngineThread:
    """The one thread of an engine; `EngineThread.of` returns the same one to all users of the engine.

    All methods may be called from any thread. EngineFailedError once a step has failed or the engine is closed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine: Engine | None = engine
        self._mailbox = _Mailbox()
        self._places: dict[int, tuple[Sink, int]] = {}  # request id -> sink and index; of the engine's thread
        self.num_queued = 0  # completions of prompts that the thread has not taken yet
        finalize(self, _Mailbox.end, self._mailbox).atexit = False  # _close_all does that
        _threads.add(self)

    @classmethod
    def of(cls, engine: Engine) -> EngineThread:
        """The thread of an engine; several users share it."""
        with _thread_of_lock:
            known = _thread_of.get(engine)
            found = None if known is None else known()
            if found is None:
                found = cls(engine)
                _thread_of[engine] = ref(found)
            return found

    @property
    def engine(self) -> Engine:
        """The engine; EngineFailedError after `close`."""
        engine = self._engine
        if engine is None or self._mailbox.is_closed:
            raise EngineFailedError(CLOSED)
        return engine

    @property
    def is_open(self) -> bool:
        """Whether prompts are served: no step has failed, and the engine is not closed."""
        engine = self._engine
        return engine is not None and not self._mailbox.is_closed and engine.failure is None

    def submit(self, prompts: Sequence[tuple[Sink, Prompt]]) -> None:
        """Queues prompts, which enter the next step together as far as they fit.

        They must have passed Engine.check; a prompt that fails even so breaks off its sink.
        """
        self.engine.raise_failure()
        num_completions = sum(prompt.params.n for _, prompt in prompts)
        command = partial(self._add, prompts, num_completions, torch.get_num_threads())
        with self._mailbox.condition:
            self._send(command)
            self.num_queued += num_completions

    def abort(self, requests: Callable[[], Sequence[Request]]) -> None:
        """Ends the unfinished among `requests()`, called in the engine's thread, with finish_reason "abort"."""
        with self._mailbox.condition:
            if self._mailbox.thread is not None and self.is_open:  # else nothing is open
                self._send(lambda: self._finish(requests()))

    def end(self, sinks: Sequence[Sink]) -> None:
        """Aborts the unfinished requests of these, and returns when that is done: after the current step."""
        self.abort(lambda: [request for sink in sinks for request in sink.requests])
        if self._mailbox.thread is not None and self.is_open:
            with suppress(EngineFailedError):  # closed meanwhile, so nothing is open
                self.call(lambda: None)

    def call(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in the engine's thread between two steps."""
        if threading.current_thread() is self._mailbox.thread:
            return work()
        done: Future[T] = Future()
        with self._mailbox.condition:
            self._send(partial(_work_for, done, work))
        try:
            return done.result()
        finally:
            done.cancel()  # where the wait was interrupted, unless it has begun
            del done  # else an error would refer to itself through this frame, and so to the model

    def rest(self) -> None:
        """Ends the thread and waits for it, unless others keep it busy; the next prompt starts another."""
        self._mailbox.end()
        self._mailbox.join(unless=lambda: bool(self._places))

    def close(self) -> None:
        """Rejects new prompts, breaks off the open ones after the current step, and frees the engine."""
        with self._mailbox.condition:
            if self._mailbox.thread is not None and not self._mailbox.is_closed:
                self._send(lambda: self._break_off_all(lambda: EngineFailedError(CLOSED)))
            self._mailbox.is_closed = True
        self._mailbox.end()
        self._mailbox.join()
        if self._mailbox.thread is None:
            self._engine = None

    def _send(self, command: Callable[[], None]) -> None:
        """Under the condition: sends a command to the thread, and starts the thread where there is none."""
        if self._mailbox.is_closed:
            raise EngineFailedError(CLOSED)
        self._mailbox.send(command, start=partial(_serve, self._mailbox, ref(self)))

    # In the engine's thread:

    def work(self) -> None:
        """Runs the commands, and steps while a sink's prompt is open."""
        engine = self._own_engine
        with engine.owned(wait=True):
            try:
                while self._obey():
                    self._deliver(engine.step())
            except BaseException as error:  # a panic in native code is not an Exception, and the sinks must hear of it
                if engine.failure is None:
                    engine.failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
                self._break_off_all(engine.failure_error)
                self._mailbox.end()

    @property
    def _own_engine(self) -> Engine:
        assert self._engine is not None, "it is freed when the thread has ended"
        return self._engine

    def _obey(self) -> bool:
        while (command := self._mailbox.take()) is not None:
            command()
        return bool(self._places)

    def _add(self, prompts: Sequence[tuple[Sink, Prompt]], num_completions: int, num_threads: int) -> None:
        take_threads(num_threads)
        for sink, prompt in prompts:
            try:
                sink.requests = self._own_engine.add_requests(prompt.ids, prompt.params, prompt.options)
            except Exception as error:  # a bad setting is the caller's error, and ends nothing else
                sink.post([partial(sink.break_off, error)])
            for index, request in enumerate(sink.requests):
                self._places[request.request_id] = sink, index
        with self._mailbox.condition:
            self.num_queued -= num_completions

    def _finish(self, requests: Sequence[Request]) -> None:
        unfinished = [request for request in requests if not request.is_finished]
        for request in unfinished:
            self._own_engine.finish(request)
        self._deliver([StepOutput(request, [], finish_reason=request.finish_reason) for request in unfinished])

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        events: dict[Callable[[Sequence[Event]], None], list[Event]] = {}
        for output in outputs:
            request_id = output.request.request_id
            if request_id in self._places:
                sink, index = self._places[request_id]
                events.setdefault(sink.post, []).append(partial(sink.put, index, output))
                if output.finish_reason is not None:
                    del self._places[request_id]
        for post, some in events.items():
            post(some)

    def _break_off_all(self, error: Callable[[], Exception]) -> None:
        """Ends all open prompts; each sink gets an error of its own."""
        sinks = {id(sink): sink for sink, _ in self._places.values()}
        self._places.clear()
        for sink in sinks.values():
            sink.post([partial(sink.break_off, error())])
        if self._own_engine.failure is None:
            for sink in sinks.values():
                for request in sink.requests:
                    self._own_engine.finish(request)

    # In a forked child:

    def lose_thread(self) -> None:
        """Starts over without a thread, which a fork does not copy; open prompts are broken off."""
        is_idle = not (self._places or self._mailbox.commands or self._mailbox.is_at_work)
        self._mailbox.renew()
        if self._engine is not None:
            self._engine.renew_owner()
            if not is_idle:
                self._engine.failure = RuntimeError(FORKED)
        places, self._places = self._places, {}
        for sink, _ in places.values():
            sink.break_off(EngineFailedError(FORKED))


class _Mailbox:
    """What the callers and the thread share; it refers to the engine only while there are commands."""

    def __init__(self) -> None:
        self.is_closed = False
        self.renew()

    def renew(self) -> None:
        self.condition = threading.Condition()  # its lock is reentrant; under it:
        self.commands: deque[Callable[[], None]] = deque()
        self.thread: threading.Thread | None = None
        self.is_at_work = False
        self._is_ending = False

    def send(self, command: Callable[[], None], start: Callable[[], None]) -> None:
        """Under the condition: adds a command; a new thread runs `start`."""
        self._is_ending = False
        if self.thread is None:
            self.thread = threading.Thread(target=start, name=THREAD_NAME, daemon=True)
            try:
                self.thread.start()
            except RuntimeError:  # the system has no more threads, or the interpreter is shutting down
                self.thread = None
                raise
        self.commands.append(command)
        self.condition.notify_all()

    def wait(self) -> bool:
        """Waits for commands; False when there will be none, and then the thread must end."""
        with self.condition:
            self.is_at_work = False
            self.condition.wait_for(lambda: self.commands or self._is_ending)
            self.is_at_work = bool(self.commands)
            if not self.is_at_work:
                self.thread = None
                self.condition.notify_all()
            return self.is_at_work

    def take(self) -> Callable[[], None] | None:
        """The next command; the others stay queued in case it fails."""
        with self.condition:
            return self.commands.popleft() if self.commands else None

    def end(self) -> None:
        """Has the thread end once it has nothing to do."""
        with self.condition:
            self._is_ending = True
            self.condition.notify_all()

    def join(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Waits for a thread that ends, unless there is more for it to do."""
        with self.condition:
            thread = self.thread
            if thread is None or thread is threading.current_thread():
                return
            self.condition.wait_for(lambda: self.thread is not thread or not self._is_ending or unless())
            has_ended = self.thread is not thread
        if has_ended:
            thread.join()


def _serve(mailbox: _Mailbox, owner: ReferenceType[EngineThread]) -> None:
    while mailbox.wait():
        found = owner()
        assert found is not None, "its commands refer to it"
        found.work()
        del found


def _work_for(done: Future[T], work: Callable[[], T]) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)
    finally:
        del done, work  # as above


_threads: WeakSet[EngineThread] = WeakSet()
_thread_of: WeakKeyDictionary[Engine, ReferenceType[EngineThread]] = WeakKeyDictionary()
_thread_of_lock = threading.Lock()


@atexit.register
def _close_all() -> None:
    """Before the interpreter shuts down under a step; non-daemon threads have ended by then."""
    for thread in list(_threads):
        thread.close()


def _begin_child() -> None:
    global _thread_of_lock
    _thread_of_lock = threading.Lock()
    for thread in list(_threads):
        thread.lose_thread()


os.register_at_fork(after_in_child=_begin_child)
