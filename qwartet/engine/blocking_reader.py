"""The completions of prompts for a thread that waits for them: the synchronous face of the engine's thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import SimpleQueue

from qwartet.engine.engine import StepOutput
from qwartet.engine.engine_thread import EngineThread, Event, Prompt
from qwartet.engine.request import Request


class BlockingReader:
    """Submits prompts and yields what each step adds to their completions; leaving the context aborts the rest.

        with BlockingReader(thread) as reader:
            reader.submit([Prompt(ids, params)])
            for output in reader: ...

    An interrupt (Ctrl-C) while it waits, or leaving early, ends only these prompts.
    """

    def __init__(self, thread: EngineThread, *, only_ends: bool = False) -> None:
        """`only_ends`: yield only a completion's last output, so that nothing wakes up before."""
        self._thread = thread
        self._only_ends = only_ends
        self._news: SimpleQueue[tuple[int, StepOutput | _BrokenOff]] = SimpleQueue()
        self._sinks: list[_Sink] = []
        self._num_open = 0

    def submit(self, prompts: Sequence[Prompt]) -> None:
        """Queues the prompts together; they must have passed Engine.check. EngineFailedError as for EngineThread.

        More may follow while earlier ones are served; prompts are numbered in their order.
        """
        first = len(self._sinks)
        sinks = [
            _Sink(self._news, self._only_ends, first + number, prompt.params.n) for number, prompt in enumerate(prompts)
        ]
        self._sinks += sinks
        self._num_open += sum(sink.num_completions for sink in sinks)
        self._thread.submit(list(zip(sinks, prompts, strict=True)))

    @property
    def requests(self) -> list[list[Request]]:
        """For each prompt, the requests of its completions, once they are done."""
        return [sink.requests for sink in self._sinks]

    def __iter__(self) -> Iterator[StepOutput]:
        """What each step adds, as it arrives; raises when the engine no longer serves a prompt."""
        return (added for _, added in self.numbered())

    def numbered(self) -> Iterator[tuple[int, StepOutput]]:
        """The same, each with the number of its prompt."""
        while self._num_open:
            number, news = self._news.get()
            if isinstance(news, _BrokenOff):
                self._num_open -= news.num_completions
                raise news.error
            if news.finish_reason is not None:
                self._num_open -= 1
            yield number, news

    def __enter__(self) -> BlockingReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Returns once the blocks of aborted prompts are free: after the current step."""
        if self._num_open:
            self._num_open = 0
            self._thread.end(self._sinks)


class _BrokenOff:
    """Marks a prompt that will get no more output."""

    def __init__(self, error: Exception, num_completions: int) -> None:
        self.error, self.num_completions = error, num_completions


def _call_all(events: Sequence[Event]) -> None:
    for event in events:
        event()


class _Sink:
    """Receives from the engine's thread what it adds to the completions of one prompt."""

    def __init__(
        self,
        news: SimpleQueue[tuple[int, StepOutput | _BrokenOff]],
        only_ends: bool,
        number: int,
        num_completions: int,
    ) -> None:
        self.requests: list[Request] = []
        self.num_completions = num_completions
        self._news, self._only_ends, self._number = news, only_ends, number

    post = staticmethod(_call_all)

    def put(self, index: int, added: StepOutput) -> None:
        if not self._only_ends or added.finish_reason is not None:
            self._news.put((self._number, added))

    def break_off(self, error: Exception) -> None:
        self._news.put((self._number, _BrokenOff(error, self.num_completions)))
