"""What a generator makes: a talk (turns of one kind), and the conversation that is built from talks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwartet.tokenizer.chatml import DEFAULT_SYSTEM, Message

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, Language] = ("zh", "en")
Turn = tuple[str, str]  # what the user says, what the assistant answers


@dataclass(frozen=True)
class Talk:
    """Some turns about one thing; `expect` is what the last answer is scored for."""

    turns: tuple[Turn, ...]
    expect: str


@dataclass(frozen=True)
class Conversation:
    """Messages from system to assistant.

    `given` is the part of the last answer that the prompt already holds. The answers of the first `num_unlabelled`
    turns are context: another voice gave them, and training must not repeat it.
    """

    kind: str
    messages: tuple[Message, ...]
    expect: str = ""
    given: str = ""
    num_unlabelled: int = 0


def conversation(
    kind: str, talk: Talk, system: str = DEFAULT_SYSTEM, given: str = "", num_unlabelled: int = 0
) -> Conversation:
    """The messages of one talk under a system prompt."""
    messages = [Message("system", system)]
    for question, answer in talk.turns:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation(kind, tuple(messages), talk.expect, given, num_unlabelled)


def one_turn(question: str, answer: str, expect: str | None = None) -> Talk:
    """A talk of a single question; without `expect` the whole answer is expected."""
    return Talk(((question, answer),), answer if expect is None else expect)
