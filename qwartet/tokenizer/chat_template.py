"""apply_chat_template's conversations: messages to ChatML, as text and as ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwartet.errors import RequestError
from qwartet.tokenizer.chatml import DEFAULT_SYSTEM, Message, build_prompt
from qwartet.tokenizer.tokenizer import Tokenizer
from qwartet.tokenizer.vocabulary import IM_END, IM_START


@dataclass(frozen=True)
class Prompt:
    """A conversation in ChatML; without a generation prompt it ends with the newline behind the last turn."""

    text: str
    ids: list[int]


def prompt_of(tokenizer: Tokenizer, messages: list[Message], add_generation_prompt: bool) -> Prompt:
    """Text and ids of messages, up to where the assistant's answer begins with `add_generation_prompt`."""
    if messages[0].role != "system":
        messages = [Message("system", DEFAULT_SYSTEM), *messages]
    text = "".join(f"{IM_START}{message.role}\n{message.content}{IM_END}\n" for message in messages)
    ids = build_prompt(tokenizer, messages, add_generation_prompt)
    if add_generation_prompt:
        return Prompt(f"{text}{IM_START}assistant\n", ids)
    return Prompt(text, ids + tokenizer.encode("\n"))


def conversations_of(given: Any) -> tuple[list[list[Message]], bool]:
    """Conversations as messages, and whether it was a single one; RequestError for anything but lists of messages."""
    if not isinstance(given, list | tuple) or not given:
        raise RequestError(f"the conversation is {given!r:.60}; {_FORM}", param="conversation")
    is_single = not isinstance(given[0], list | tuple)
    return [_messages(one) for one in ([given] if is_single else given)], is_single


def _messages(given: Any) -> list[Message]:
    if not isinstance(given, list | tuple) or not given:
        raise RequestError(f"a conversation is {given!r:.60}; {_FORM}", param="conversation")
    for number, message in enumerate(given, 1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise RequestError(f"message {number} is {message!r:.60}; {_FORM}", param="conversation")
    return [Message(message["role"], message["content"]) for message in given]


_FORM = "pass messages [{'role': 'user', 'content': 'text'}]"
