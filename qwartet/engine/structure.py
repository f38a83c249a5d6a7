"""The form that a completion must have: any JSON, JSON of a schema, a match of a regex, a choice, tool calls.

Thinking may come before it. This is only the specification; `engine/structure_limits.py` checks its size,
`engine/constrain.py` enforces it. No structure takes a grammar: only `engine/grammar.py` writes those.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from qwartet.errors import SettingError
from qwartet.tokenizer.thinking import ThinkingPart

KINDS = ("json_object", "json_schema", "regex", "choice", "tool_calls")
TOOL_NAME = "[A-Za-z0-9_-]{1,64}"


@dataclass(frozen=True)
class ToolCalls:
    """A text that calls these tools, with arguments of their JSON schemas.

    In the ReAct format (tokenizer/react.py): where a call is required, a thought and a call. Else any text; if it calls
    a tool, then one of these. With an answer that has a structure: a thought, then a call or such an answer.
    In the format of Qwen2.5 (tokenizer/call_stream.py): the same without the thought.
    A tool whose schema is None takes any arguments, which in this format are a JSON object.
    SettingError for no tools, and for an invalid name or schema.
    """

    schemas: Any  # name to schema, an object or its JSON text; kept as pairs of name and text
    is_required: bool = True
    begins_in_thought: bool = False  # ReAct: the prompt ends with "Thought:"
    answer: Structure | None = None  # only where no call is required; must not be tool calls itself
    form: Literal["react", "tagged"] = "react"
    takes_several: bool = False  # whether more than one call may be made; only in tags

    def __post_init__(self) -> None:
        if not isinstance(self.schemas, Mapping) or not self.schemas:
            raise _error(f"schemas is {self.schemas!r:.80}; it must map at least one name to its JSON schema")
        for name in self.schemas:
            if not isinstance(name, str) or re.fullmatch(TOOL_NAME, name) is None:
                raise _error(f"a tool has the name {name!r:.80}; use 1 to 64 of the characters A-Z a-z 0-9 _ -")
        pairs = tuple((name, None if one is None else _schema_text(one)) for name, one in self.schemas.items())
        object.__setattr__(self, "schemas", pairs)

    @property
    def schema_texts(self) -> list[str]:
        """All schemas but None, as JSON text."""
        return [schema for _, schema in self.schemas if schema is not None]


@dataclass(frozen=True)
class Structure:
    """The form of a complete answer, as exactly one of five kinds; SettingError for none, several or a wrong type."""

    json_object: bool = False  # any JSON object
    json_schema: Mapping[str, Any] | str | None = None  # kept as JSON text
    regex: str | None = None  # of the entire text, in Rust's syntax: no look-around, \d is a digit of any script
    choice: tuple[str, ...] | None = None  # exactly one of these strings
    tool_calls: ToolCalls | None = None
    thinking: ThinkingPart = "answer"  # where the completion begins: what is thinking has no structure

    def __post_init__(self) -> None:
        if not isinstance(self.json_object, bool):
            raise _error(f"json_object is {self.json_object!r:.80}; it must be true or false")
        given = ["json_object"] * self.json_object + [kind for kind in KINDS[1:] if getattr(self, kind) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "nothing"
            raise _error(f"the structure has {said}; set exactly one of {', '.join(KINDS)}")
        # Strings and tuples cannot change under a running request, and are hashable.
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", _schema_text(self.json_schema))
        if self.regex is not None and not (_is_text(self.regex) and self.regex):
            raise _error(f"regex is {self.regex!r:.80}; it must be a non-empty string")
        if self.choice is not None:
            object.__setattr__(self, "choice", _choices(self.choice))
        if self.tool_calls is not None and not isinstance(self.tool_calls, ToolCalls):
            raise _error(f"tool_calls is {self.tool_calls!r:.80}; it must be ToolCalls")
        if self.thinking not in get_args(ThinkingPart):
            raise _error(f"thinking is {self.thinking!r:.80}; it must be one of {', '.join(get_args(ThinkingPart))}")

    @property
    def schema_text(self) -> str:
        """The schema as JSON text."""
        assert isinstance(self.json_schema, str), "only a structure of the kind json_schema has a schema"
        return self.json_schema


def _error(message: str) -> SettingError:
    return SettingError(message, param="structure")


def _schema_text(schema: Any) -> str:
    if _is_text(schema):
        return str(schema)
    if not isinstance(schema, Mapping):
        raise _error(f"json_schema is {schema!r:.80}; it must be a JSON object or its text")
    try:
        return json.dumps(dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _error(f"json_schema cannot be written as JSON ({error}); use plain dicts and lists") from error


def _choices(choice: Any) -> tuple[str, ...]:
    if not isinstance(choice, tuple | list) or not choice or not all(map(_is_text, choice)):
        raise _error(f"choice is {choice!r:.80}; it must be a list of at least one string")
    return tuple(choice)


def _is_text(value: Any) -> bool:
    """Whether a value is a string that UTF-8 can encode: an unpaired surrogate cannot be encoded."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
