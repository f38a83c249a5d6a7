"""What answers in a conversation, behind one protocol: a model in this process or on a server."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from qwartet.client.openai_server import AnswerEnd, OpenAIServer, Piece, ServedModel
from qwartet.errors import PromptTooLongError
from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.trimmed import Trimmed

if TYPE_CHECKING:
    from qwartet.llm import LLM

End = TypeVar("End")

Turns = Sequence[tuple[str, str]]
"""Earlier turns, oldest first: (query, answer)."""


class Conversant(Protocol):
    """Answers questions. `sampling` uses the names of SamplingParams; the conversant chooses what is not set."""

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together; None if unknown."""

    @property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """The values of unset settings, as far as they are known."""

    @property
    def enable_thinking(self) -> bool | None:
        """Whether answers begin with thinking; None: as the model has it."""

    def set_thinking(self, enabled: bool | None) -> None:
        """Sets `enable_thinking`; RequestError if it is known that the model cannot do so."""

    def chat_stream(
        self, query: str, history: Turns, system: str | None, **sampling: Any
    ) -> Generator[AnswerDelta, None, AnswerEnd]:
        """An answer piece by piece, its thinking first, and its text without white space at its ends.

        Closing the generator ends the request.
        """


class LocalModel:
    """A model in this process, with one of its adapters or without."""

    def __init__(self, llm: LLM, adapter: str | None = None, *, enable_thinking: bool | None = None) -> None:
        """`enable_thinking`: see LLM.chat."""
        self._llm, self._adapter = llm, adapter
        self.set_thinking(enable_thinking)
        self.context_length: int | None = llm.engine.max_model_len
        self.sampling_defaults = vars(llm.sampling_params())

    def set_thinking(self, enabled: bool | None) -> None:
        """See Conversant."""
        self._llm.thinking_form(enabled)
        self.enable_thinking = enabled

    def chat_stream(
        self, query: str, history: Turns, system: str | None, **sampling: Any
    ) -> Generator[AnswerDelta, None, AnswerEnd]:
        """See Conversant; the oldest turns are dropped until the rest fits the context."""
        if self._adapter is not None:
            sampling["adapter"] = self._adapter
        deltas = self._llm.chat_deltas(query, history, system, enable_thinking=self.enable_thinking, **sampling)
        completion = yield from _trimmed(deltas)
        return AnswerEnd(completion.finish_reason, len(completion.prompt_ids), len(completion.token_ids))


class RemoteModel:
    """A model on a server."""

    def __init__(self, server: OpenAIServer, model: ServedModel, *, enable_thinking: bool | None = None) -> None:
        self._server, self._model = server, model
        self.set_thinking(enable_thinking)
        self.context_length = model.context_length
        self.sampling_defaults: Mapping[str, Any] = {}

    def set_thinking(self, enabled: bool | None) -> None:
        """See Conversant; the server rejects questions if the model cannot do so."""
        self.enable_thinking = enabled

    def chat_stream(
        self, query: str, history: Turns, system: str | None, **sampling: Any
    ) -> Generator[AnswerDelta, None, AnswerEnd]:
        """See Conversant; the oldest turns are dropped, a third at a time, until the server accepts the rest."""
        if self.enable_thinking is not None:
            sampling["chat_template_kwargs"] = {"enable_thinking": self.enable_thinking}
        while True:
            messages = _messages(query, history, system)
            try:
                pieces = self._server.chat_pieces(messages, model=self._model.name, **sampling)
                return (yield from _trimmed(_deltas(pieces)))
            except PromptTooLongError:  # raised before the first piece
                if not history:
                    raise
                history = history[-(len(history) * 2 // 3) :] if len(history) > 1 else []


def _messages(query: str, history: Turns, system: str | None) -> list[dict[str, str]]:
    """A conversation as OpenAI's API has it."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for earlier_query, answer in history:
        messages += [{"role": "user", "content": earlier_query}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": query}]


def _deltas(pieces: Generator[Piece, None, AnswerEnd]) -> Generator[AnswerDelta, None, AnswerEnd]:
    """Pieces of a server's answer as those of a local one; closing it closes them."""
    with closing(pieces):
        try:
            while True:
                text, reasoning = next(pieces)
                yield AnswerDelta(text, reasoning=reasoning)
        except StopIteration as end:
            ended: AnswerEnd = end.value
            return ended


def _trimmed(deltas: Generator[AnswerDelta, None, End]) -> Generator[AnswerDelta, None, End]:
    """The same without white space around the text and around the thinking; closing it closes them."""
    text, reasoning = Trimmed(), Trimmed()
    with closing(deltas):
        try:
            while True:
                delta = next(deltas)
                kept = AnswerDelta(text.push(delta.text), reasoning=reasoning.push(delta.reasoning))
                if kept != AnswerDelta():
                    yield kept
        except StopIteration as end:
            ended: End = end.value
            return ended


def read_answer(stream: Generator[AnswerDelta, None, AnswerEnd], show: Callable[[AnswerDelta], None]) -> AnswerEnd:
    """Passes every piece of an answer to `show`; always closes the stream, which ends the request."""
    with closing(stream):
        try:
            while True:
                show(next(stream))
        except StopIteration as end:
            ended: AnswerEnd = end.value
            return ended
