"""A conversation's earlier turns, in any of several unambiguous forms, as (query, answer) pairs.

    [("q", "a"), ...]                                               pairs, also as lists: what json.load gives
    [{"role": "user", "content": "q"}, {"role": "assistant", ...}]  OpenAI messages; a system message may come first
    {"format": "qwartet conversation", "turns": [...], ...}         the terminal's /save
    [{"user": "q", "assistant": "a"}, ...]                          its turns alone, or with "bot" for "assistant"

Everything else is rejected: a string of two characters, or a mapping of two keys, would unpack like a pair.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwartet.errors import RequestError

History = list[tuple[str, str]]
"""Earlier turns, oldest first: (query, answer)."""

GivenHistory = Sequence[Sequence[str] | Mapping[str, Any]] | Mapping[str, Any]
"""Earlier turns in one of the forms above."""

_NEXT = "pass pairs [(query, answer), ...] or messages [{'role': ..., 'content': ...}, ...]"
SAVED_FORMAT, SAVED_VERSION = "qwartet conversation", 1
_SYSTEM_ROLES = ("system", "developer")
_CALLS = ("tool_calls", "function_call", "audio")  # what an answer may contain besides text


class Turns(list[tuple[str, str]]):
    """Earlier turns as pairs, with the system prompt that came with them.

    The prompt stays with the list, and with its slices, so that a conversation that began as messages keeps it in the
    next call.
    """

    def __init__(self, turns: Iterable[tuple[str, str]] = (), system: str | None = None) -> None:
        super().__init__(turns)
        self.system = system

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return Turns(found, self.system) if isinstance(key, slice) else found

    def __add__(self, other: Any) -> Any:
        return Turns([*self, *other], self.system)

    def copy(self) -> Turns:
        """The same turns, with the system prompt."""
        return self[:]  # type: ignore[no-any-return]


def turns_of(history: GivenHistory | None, system: str | None = None) -> Turns:
    """The turns of a history, as a new list; `system` is the system prompt that the caller passes separately, or None.

    RequestError, naming the item, for an unknown form, a missing answer, or two system prompts.
    """
    if history is None:
        return Turns()
    if isinstance(history, Mapping):
        found = _saved_turns(history)
    elif isinstance(history, Sequence) and not isinstance(history, str | bytes | bytearray):
        found = _listed_turns(history)
    else:
        raise _refusal(f"history is {_shown(history)}", _NEXT)
    if isinstance(history, Turns):
        found.system = history.system
    elif None not in (found.system, system) and found.system != system:
        raise _refusal("history contains a system prompt, and system= sets another", "pass only one of them")
    return found


def longer_history(history: Any, turns: Turns, turn: tuple[str, str]) -> list[tuple[str, str]]:
    """A copy of the history with a turn added: pairs stay as they are, as published; other forms become pairs."""
    is_pairs = isinstance(history, list) and not any(isinstance(item, dict) for item in history)
    copied: list[tuple[str, str]] = copy.deepcopy(history) if is_pairs else turns
    copied.append(turn)
    return copied


def _listed_turns(given: Sequence[Any]) -> Turns:
    items = [item.model_dump() if hasattr(item, "model_dump") else item for item in given]  # an SDK's message
    if all(isinstance(item, list | tuple) for item in items):
        return Turns(_pair(item, number) for number, item in enumerate(items, 1))
    if all(isinstance(item, Mapping) and "role" in item for item in items):
        return _message_turns(items)
    if all(isinstance(item, Mapping) and "user" in item for item in items):
        return Turns(_named_pair(item, number) for number, item in enumerate(items, 1))
    kinds = {_kind(item) for item in items}
    if len(kinds) > 1 and None not in kinds:
        raise _refusal("history mixes pairs, messages and saved turns", _NEXT)
    number, odd = next((number, item) for number, item in enumerate(items, 1) if _kind(item) is None)
    raise _refusal(f"item {number} of history is {_shown(odd)}", _NEXT)


def _kind(item: Any) -> str | None:
    if isinstance(item, list | tuple):
        return "pair"
    if isinstance(item, Mapping):
        return next((key for key in ("role", "user") if key in item), None)
    return None


def _pair(item: Sequence[Any], number: int) -> tuple[str, str]:
    if len(item) != 2:
        raise _refusal(f"turn {number} of history has {len(item)} parts", "a turn must be (query, answer)")
    return _text(item[0], f"query of turn {number}"), _text(item[1], f"answer of turn {number}")


def _named_pair(item: Mapping[str, Any], number: int) -> tuple[str, str]:
    answers = item.keys() - {"user"}
    if answers not in ({"assistant"}, {"bot"}):
        keys = ", ".join(map(repr, item))
        raise _refusal(f"turn {number} of history has the keys {keys:.80}", "a turn must have 'user' and 'assistant'")
    return _pair((item["user"], item[answers.pop()]), number)


def _message_turns(items: Sequence[Mapping[str, Any]]) -> Turns:
    system = None
    contents: list[str] = []
    for number, message in enumerate(items, 1):
        role, content = message["role"], _content(message, number)
        if number == 1 and role in _SYSTEM_ROLES:
            system = content
            continue
        expected = ("user", "assistant")[len(contents) % 2]
        if role != expected:
            raise _refusal(
                f"message {number} of history has the role {role!r:.40} where {expected!r} is expected",
                "user and assistant must alternate, after at most one system message",
            )
        contents.append(content)
    if len(contents) % 2:
        raise _refusal("history ends with a user message", "leave it out and pass it as the query")
    return Turns(zip(contents[::2], contents[1::2], strict=True), system)


def _content(message: Mapping[str, Any], number: int) -> str:
    if calls := [name for name in _CALLS if message.get(name)]:
        raise _refusal(f"message {number} of history has {calls[0]}", "pass messages with text only")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(_text(part.get("text"), f"content of message {number}") for part in content)
    return _text(content, f"content of message {number}")


def _saved_turns(saved: Mapping[str, Any]) -> Turns:
    if saved.get("format") != SAVED_FORMAT or not isinstance(saved.get("turns"), list):
        raise _refusal(f"history is {_shown(saved)}, not a conversation saved with /save", _NEXT)
    if saved.get("version") != SAVED_VERSION:
        raise _refusal(f"history is a conversation of version {saved.get('version')!r:.20}", "pass history['turns']")
    if saved.get("sampling"):
        raise _refusal(
            "history is a saved conversation with sampling settings, which history= does not set",
            "pass them as arguments, and history=saved['turns'] with system=saved['system']",
        )
    found = _listed_turns(saved["turns"])
    if saved.get("system") is not None:
        found.system = _text(saved["system"], "system prompt")
    return found


def _text(value: Any, what: str) -> str:
    if value is None:
        raise _refusal(f"history has no {what} (None)", "leave that turn out, or add its text")
    if not isinstance(value, str):
        raise _refusal(f"the {what} in history is {_shown(value)}", "pass a string")
    return value


def _shown(value: object) -> str:
    return f"{value!r:.40} (a {type(value).__name__})"


def _refusal(reason: str, hint: str) -> RequestError:
    return RequestError(f"{reason}; {hint}", param="history")
