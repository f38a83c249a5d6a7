"""Which values of a schema's `format` are enforced? JSON Schema treats the others as annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from qwartet.engine.structure import Structure

# Those that llguidance enforces; "unknown" allows everything.
ENFORCED_FORMATS = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid")
)
_OF_NAMES = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_OF_SCHEMAS = (
    "additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "else", "if", "items", "not", "oneOf",
    "prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip


def unenforced_formats(structure: Structure) -> tuple[str, ...]:
    """The formats that the schemas of this structure name and nothing enforces; none for invalid schemas."""
    texts = [] if structure.tool_calls is None else list(structure.tool_calls.schema_texts)
    answer = structure if structure.tool_calls is None else structure.tool_calls.answer
    if answer is not None and answer.json_schema is not None:
        texts.append(answer.schema_text)
    found: dict[str, None] = {}
    for text in texts:
        try:
            schema = json.loads(text)
        except (ValueError, RecursionError):
            continue  # the compiler reports it
        found |= dict.fromkeys(one["format"] for one in _with_unenforced_format(schema))
    return tuple(found)


def drop_unenforced_formats(schema: Any) -> None:
    """Removes them from a schema."""
    for one in list(_with_unenforced_format(schema)):
        del one["format"]


def _with_unenforced_format(schema: Any) -> Iterator[dict[str, Any]]:
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        if not isinstance(one, dict):
            continue
        if isinstance(one.get("format"), str) and one["format"] not in ENFORCED_FORMATS:
            yield one
        waiting += [one[key] for key in _OF_SCHEMAS if key in one]
        waiting += [inner for key in _OF_NAMES if isinstance(one.get(key), dict) for inner in one[key].values()]
