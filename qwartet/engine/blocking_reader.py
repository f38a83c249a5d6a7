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
        self._news = _News()
        self._sinks: dict[int, _Sink] = {}  # by the number of the prompt
        self._num_submitted = 0  # prompts
        self._num_open = 0  # completions

    def submit(self, prompts: Sequence[Prompt]) -> None:
        """Queues the prompts together; they must have passed Engine.check. EngineFailedError as for EngineThread.

        More may follow while earlier ones are served; prompts are numbered in their order.
        """
        sinks = {
            number: _Sink(self._news, self._only_ends, number, prompt.params.n)
            for number, prompt in enumerate(prompts, start=self._num_submitted)
        }
        self._sinks |= sinks
        self._num_submitted += len(sinks)
        self._num_open += sum(sink.num_completions for sink in sinks.values())
        self._thread.submit(list(zip(sinks.values(), prompts, strict=True)))

    def forget(self, number: int) -> None:
        """Drops a prompt that is done, which would else be kept for `requests`."""
        del self._sinks[number]

    @property
    def requests(self) -> list[list[Request]]:
        """For each prompt that is not forgotten, the requests of its completions, once they are done."""
        return [sink.requests for sink in self._sinks.values()]

    def __iter__(self) -> Iterator[StepOutput]:
        """What each step adds, as it arrives; raises when the engine no longer serves a prompt."""
        return (added for step in self.steps() for _, added in step)

    def steps(self) -> Iterator[list[tuple[int, StepOutput]]]:
        """The same, a list for each step, each output with the number of its prompt."""
        while self._num_open:
            outputs: list[tuple[int, StepOutput]] = []
            for number, news in self._news.wait():
                if isinstance(news, _BrokenOff):
                    self._num_open -= news.num_completions
                    raise news.error
                if news.finish_reason is not None:
                    self._num_open -= 1
                outputs.append((number, news))
            yield outputs

    def __enter__(self) -> BlockingReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Returns once the blocks of aborted prompts are free: after the current step."""
        if self._num_open:
            self._num_open = 0
            self._thread.end(list(self._sinks.values()))


class _BrokenOff:
    """Marks a prompt that will get no more output."""

    def __init__(self, error: Exception, num_completions: int) -> None:
        self.error, self.num_completions = error, num_completions


class _News:
    """From the engine's thread to the reader, a list for each step: every wake-up makes the two change the GIL."""

    def __init__(self) -> None:
        self._sent: SimpleQueue[list[tuple[int, StepOutput | _BrokenOff]]] = SimpleQueue()
        self._unsent: list[tuple[int, StepOutput | _BrokenOff]] = []

    def wait(self) -> list[tuple[int, StepOutput | _BrokenOff]]:
        """What one step added, at least one output."""
        return self._sent.get()

    # In the engine's thread:

    def post(self, events: Sequence[Event]) -> None:
        """The `post` of all sinks of the reader."""
        for event in events:
            event()
        self.send()

    def add(self, number: int, news: StepOutput | _BrokenOff) -> None:
        self._unsent.append((number, news))

    def send(self) -> None:
        if self._unsent:
            self._sent.put(self._unsent)
            self._unsent = []


class _Sink:
    """Receives from the engine's thread what it adds to the completions of one prompt."""

    def __init__(self, news: _News, only_ends: bool, number: int, num_completions: int) -> None:
        self.requests: list[Request] = []
        self.num_completions = num_completions
        self.post = news.post
        self._news, self._only_ends, self._number = news, only_ends, number

    def put(self, index: int, added: StepOutput) -> None:
        if not self._only_ends or added.finish_reason is not None:
            self._news.add(self._number, added)

    def break_off(self, error: Exception) -> None:
        self._news.add(self._number, _BrokenOff(error, self.num_completions))
        self._news.send()  # a forked child calls this without `post`
