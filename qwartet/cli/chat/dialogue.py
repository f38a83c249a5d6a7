"""Asks, shows the answer as it is generated, and keeps the turn once it is complete."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from qwartet.cli import failures
from qwartet.cli.chat.answer_view import answer_view
from qwartet.cli.chat.conversant import Conversant, Turns, read_answer
from qwartet.cli.chat.conversation import Conversation
from qwartet.cli.language.catalogue import translate
from qwartet.cli.terminal import error_line
from qwartet.client.openai_server import AnswerEnd
from qwartet.tokenizer.answer_delta import AnswerDelta


@dataclass(frozen=True)
class Answer:
    """A complete answer, and how long it took."""

    text: str
    end: AnswerEnd
    first_s: float  # until its first piece
    seconds: float

    @property
    def tokens_per_s(self) -> float | None:
        """Speed after the first piece; None if tokens were not counted or are too few."""
        count, time_s = self.end.num_completion_tokens, self.seconds - self.first_s
        return (count - 1) / time_s if count is not None and count > 1 and time_s > 0 else None


def say(text: str) -> None:
    """Prints a remark about the conversation, on stderr."""
    print(translate(text), file=sys.stderr)


def complain(text: str) -> None:
    """Prints the line of an error."""
    print(error_line(f"error: {text}"), file=sys.stderr)


class Dialogue:
    """One conversation. A turn is kept once its answer is complete; a stopped one leaves no trace."""

    def __init__(self, conversant: Conversant, conversation: Conversation, *, wants_markdown: bool = False) -> None:
        self._wants_markdown = wants_markdown
        self.conversant = conversant
        self.conversation = conversation
        self.last_answer: Answer | None = None
        self.draft = ""  # what the next message starts with
        self._unanswered: str | None = None  # the last query, where it has no answer

    def ask(self, query: str) -> None:
        """Answers a query after the turns so far."""
        turns = self.conversation.turns
        self._unanswered = query
        if (answer := self._answer(query, turns)) is not None:
            turns.append((query, answer.text))
            self._unanswered = None

    def retry(self) -> None:
        """Answers the last query again; the new answer replaces the earlier one once it is complete."""
        turns = self.conversation.turns
        if self._unanswered is not None:
            self.ask(self._unanswered)
        elif not turns:
            say("(Nothing to retry.)")
        else:
            query = turns[-1][0]
            if (answer := self._answer(query, turns[:-1], otherwise="The earlier answer is kept.")) is not None:
                turns[-1] = (query, answer.text)

    def undo(self) -> None:
        """Removes the last turn; its query becomes the draft of the next message."""
        self._unanswered = None
        if not self.conversation.turns:
            say("(Nothing to undo.)")
            return
        query, _ = self.conversation.turns.pop()
        # With a space before it, what looks like a command or the start of a block is still a message.
        self.draft = f" {query}" if query.startswith(("/", '"""')) else query

    def replace(self, conversation: Conversation) -> None:
        """Continues with another conversation."""
        self.conversation = conversation
        self.forget_last()

    def forget_last(self) -> None:
        """Clears what is kept about the last query besides its turn."""
        self.last_answer, self._unanswered, self.draft = None, None, ""

    def _answer(self, query: str, turns: Turns, otherwise: str = "This turn is not kept.") -> Answer | None:
        """The complete answer, shown as it arrives; None, after a line about it, if it was stopped or failed."""
        pieces: list[str] = []
        view = answer_view(self._wants_markdown)
        started = time.perf_counter()
        first: float | None = None  # when the first piece came

        def show(delta: AnswerDelta) -> None:
            nonlocal first
            first = first or time.perf_counter()
            pieces.append(delta.text)
            view.show(delta)

        conversation = self.conversation
        try:
            stream = self.conversant.chat_stream(query, turns, conversation.system, **conversation.sampling)
            end = read_answer(stream, show)
            view.end()
        except KeyboardInterrupt:
            view.end()
            say(f"(Stopped. {otherwise})")
            return None
        except Exception as error:
            text = failures.message(error)
            if text is None or isinstance(error, BrokenPipeError):
                raise
            if pieces:
                view.end()
            complain(text)
            return None
        seconds = time.perf_counter() - started
        answer = Answer("".join(pieces), end, seconds if first is None else first - started, seconds)
        if end.finish_reason == "length":
            say("(Cut at max_tokens or the context limit; /set max_tokens N allows more.)")
        self.last_answer = answer
        return answer
