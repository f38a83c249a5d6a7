"""What a run needs of whatever answers: a model in this process, or a server."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from qwartet.evaluate.question import Answer, Question
from qwartet.tokenizer.tokenizer import Tokenizer


class Answerer(Protocol):
    """Answers questions, many at once."""

    @property
    def description(self) -> dict[str, Any]:
        """The model and all that its answers depend on, as JSON."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer; None where there is none at hand."""
        ...

    @property
    def is_chat(self) -> bool:
        """Whether the model answers conversations; a base model continues text."""
        ...

    @property
    def max_model_len(self) -> int | None:
        """The longest prompt and answer together, in tokens; None where that is not known."""
        ...

    def work(self, num_tokens: int) -> float:
        """How long a prompt takes against others: proportional to its seconds."""
        ...

    def check(self, questions: Sequence[Question]) -> None:
        """RequestError for questions that cannot be asked at all: too long, or of a kind that this cannot answer."""
        ...

    def answers(self, waiting: deque[Question]) -> Iterator[tuple[Question, Answer]]:
        """Takes questions from the left as there is room; each with its answer, as they are ready.

        Other threads may add questions meanwhile. It ends when none waits and all that were taken are answered. An
        answer that fails carries its error; EngineFailedError or ServerError where nothing more can be answered.
        """
        ...

    def close(self) -> None: ...
