"""What a template is given: messages, tools and settings as plain values, with the words that a template may trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwartet.errors import RequestError
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.templates.traced import literal

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Words that count as the template's own: templates write them, or build special tokens of them."""

GivenMessage = Message | Mapping[str, Any]

_MAX_DEPTH = 64
_REASONING = ("reasoning_content", "thinking", "reasoning")  # the names in use, the one that templates read first
_FORM = "pass messages [{'role': 'user', 'content': 'text'}]"


@dataclass(frozen=True)
class Conversation:
    """The input of a rendering."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    add_generation_prompt: bool
    settings: dict[str, Any]  # enable_thinking, and what else a template reads

    @classmethod
    def of(
        cls,
        messages: Sequence[GivenMessage],
        tools: Sequence[Any] | None,
        add_generation_prompt: bool,
        settings: Mapping[str, Any],
    ) -> Conversation:
        """Conversation of values from a request, all of them copied; RequestError for one that is not JSON's."""
        if not messages:
            raise RequestError("the conversation is empty; pass at least one message", param="messages")
        return cls(
            [_message(message, number) for number, message in enumerate(messages, 1)],
            None if tools is None else [_plain(tool, "a tool") for tool in tools],
            add_generation_prompt,
            {name: _plain(value, name) for name, value in settings.items()},
        )

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of a template, besides the special tokens."""
        own = {"messages": self.messages, "tools": self.tools, "documents": None}
        return {**self.settings, **own, "add_generation_prompt": self.add_generation_prompt}


def _message(given: Any, number: int) -> dict[str, Any]:
    if isinstance(given, Message):
        given = {"role": given.role, "content": given.content}
    if not isinstance(given, Mapping) or not isinstance(given.get("role"), str):
        raise RequestError(f"message {number} is {given!r:.60}; {_FORM}", param="messages")
    if given["role"] not in ROLES:
        known = ", ".join(ROLES)
        raise RequestError(f"message {number} has the role {given['role']!r:.40}; use one of {known}", param="messages")
    message = {key: value for key, value in _plain(given, f"message {number}").items() if value is not None}
    reasoning = next((message[key] for key in _REASONING if key in message), None)
    if reasoning is not None:  # templates read one of two names
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return {**message, "role": literal(given["role"])}


def _plain(value: Any, what: str, depth: int = 0) -> Any:
    """A copy in JSON's own types: whatever methods and marks an object had, it has none."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if depth > _MAX_DEPTH:
        raise RequestError(f"{what} is nested more than {_MAX_DEPTH} deep; make it flatter", param="messages")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise RequestError(f"{what} has keys that are not text; use the types of JSON", param="messages")
        return {str(key): _plain(item, what, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, what, depth + 1) for item in value]
    raise RequestError(f"{what} contains {type(value).__name__}; use the types of JSON", param="messages")
