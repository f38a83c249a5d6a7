"""Asks, shows the answer while it is made, and keeps the turn when it is whole."""

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


@dataclass(frozen=True)
class Answer:
    """A whole answer, and how long it took."""

    text: str
    end: AnswerEnd
    first_s: float  # until its first piece
    seconds: float

    @property
    def tokens_per_s(self) -> float | None:
        """Speed after the first piece; None where tokens were not counted, or are too few to say."""
        count, time_s = self.end.num_completion_tokens, self.seconds - self.first_s
        return (count - 1) / time_s if count is not None and count > 1 and time_s > 0 else None


def say(text: str) -> None:
    """Something about the conversation that is not part of it."""
    print(translate(text), file=sys.stderr)


def complain(text: str) -> None:
    """One line about what went wrong."""
    print(error_line(f"error: {text}"), file=sys.stderr)


class Dialogue:
    """One conversation with whoever answers. A turn is kept when its answer is whole: a stopped one leaves no trace."""

    def __init__(self, conversant: Conversant, conversation: Conversation, *, wants_markdown: bool = False) -> None:
        self._wants_markdown = wants_markdown
        self.conversant = conversant
        self.conversation = conversation
        self.last_answer: Answer | None = None
        self.draft = ""  # what the next line begins with
        self._unanswered: str | None = None  # the last query, where it has no answer

    def ask(self, query: str) -> None:
        """Answers a query after the turns so far."""
        turns = self.conversation.turns
        self._unanswered = query
        if (answer := self._answer(query, turns)) is not None:
            turns.append((query, answer.text))
            self._unanswered = None

    def retry(self) -> None:
        """Answers the last query again; its earlier answer is replaced when the new one is whole."""
        turns = self.conversation.turns
        if self._unanswered is not None:
            self.ask(self._unanswered)
        elif not turns:
            say("(There is nothing to answer again.)")
        else:
            query = turns[-1][0]
            if (answer := self._answer(query, turns[:-1], otherwise="The earlier answer is kept.")) is not None:
                turns[-1] = (query, answer.text)

    def undo(self) -> None:
        """Takes the last turn back, its query being the draft of the next one."""
        self._unanswered = None
        if not self.conversation.turns:
            say("(There is nothing to undo.)")
            return
        query, _ = self.conversation.turns.pop()
        # A space keeps what looks like a command, or like the beginning of a block, a message.
        self.draft = f" {query}" if query.startswith(("/", '"""')) else query

    def replace(self, conversation: Conversation) -> None:
        """Goes on with another conversation."""
        self.conversation = conversation
        self.forget_last()

    def forget_last(self) -> None:
        """Leaves nothing of the last query and its answer but the turn itself."""
        self.last_answer, self._unanswered, self.draft = None, None, ""

    def _answer(self, query: str, turns: Turns, otherwise: str = "This turn is not kept.") -> Answer | None:
        """The whole answer, shown as it came; None, with a line about it, where it was stopped or failed."""
        pieces: list[str] = []
        view = answer_view(self._wants_markdown)
        started = time.perf_counter()
        first: float | None = None  # when the first piece came

        def show(piece: str) -> None:
            nonlocal first
            first = first or time.perf_counter()
            pieces.append(piece)
            view.show(piece)

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
            say("(Cut at max_tokens, or at the context's end; /set max_tokens N allows more.)")
        self.last_answer = answer
        return answer
