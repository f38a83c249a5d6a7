"""What a task asks, what comes back, and what it is worth. Plain data: a task needs no model, a model no task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from qwartet.tokenizer.chatml import Message


@dataclass(frozen=True)
class Chat:
    """A conversation whose next answer is generated, greedily."""

    messages: tuple[Message, ...]  # the system message too; without one, the model's default
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    answer_start: str = ""  # the answer goes on after this text


@dataclass(frozen=True)
class Continue:
    """A text that is continued, greedily, without a chat format."""

    prompt: str
    max_tokens: int = 512
    stop: tuple[str, ...] = ()


Text = str | tuple[int, ...]
"""What a model reads: a text, or its token ids where a task needs exact windows of tokens."""


@dataclass(frozen=True)
class Choose:
    """Continuations of a text, each to be scored by its log-probability.

    A choice is tokenised by itself, as in the published scripts. A prompt that is too long loses its beginning where
    `max_length` (tokens, prompt and choice together) is given.
    """

    prompt: Text
    choices: tuple[Text, ...]
    max_length: int | None = None


Request = Chat | Continue | Choose


@dataclass(frozen=True)
class Question:
    """One item of a task."""

    id: str  # unique within the task
    group: str  # subject or category, by which scores are also reported
    request: Request
    reference: Any  # the right answer, as JSON
    prefix: str = ""  # worked examples that the text begins with; questions with the same ones are asked together
    so_far: Any = None  # what the task keeps of an exchange of several questions and answers


@dataclass(frozen=True)
class Answer:
    """What a model answered: a text, or a log-probability (nats) and a number of tokens for each choice."""

    text: str = ""
    logprobs: tuple[float, ...] = ()
    num_tokens: tuple[int, ...] = ()
    finish_reason: str = "stop"
    error: str | None = None  # why there is no answer


@dataclass(frozen=True)
class Grade:
    """What an answer is worth."""

    extracted: Any  # what was read out of the answer, as JSON; None where nothing could be
    score: float  # 0 to 1
    details: dict[str, Any] = field(default_factory=dict)  # further figures of this item, as JSON
    exchange: str | None = None  # all of an exchange, of which the answer is only the end


@dataclass(frozen=True)
class Record:
    """A line of a run's file: one question, answered and graded."""

    id: str
    group: str
    prompt: Any  # what was asked, readable
    answer: Any  # the text, of an exchange all of it, or the log-probabilities
    reference: Any
    extracted: Any
    score: float | None  # None where there is no answer
    details: dict[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of a task's result: a share with its interval, or a mean."""

    name: str
    value: float
    count: int  # items behind it
    low: float | None = None  # 95 % confidence interval; None where the protocol has none
    high: float | None = None
    unit: str = "%"


class Task(Protocol):
    """A benchmark: its questions, how an answer is graded, and what the grades come to."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the questions and grades depend on, as JSON: shots, data files with their hashes, seed."""
        ...

    def questions(self) -> Sequence[Question]:
        """All of them, in the order of the data. DataError for data that is not what the protocol expects."""
        ...

    def grade(self, question: Question, answer: Answer) -> Grade | Question:
        """The worth of an answer, or the question that follows it, with the same id, where the exchange goes on.

        May take long and may run in another thread than `questions`.
        """
        ...

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        """The main figure first. Records without a score count as 0, as in the published scripts."""
        ...

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        """Further files of a complete run, by name: a picture, a submission."""
        ...
