"""A structure written as a grammar for llguidance.

What JSON leaves open is narrowed: between two parts stands nothing, one blank, or a new line with its indent, so that
no model goes on with blanks for ever, and around the document nothing; texts and keys have no \\u escapes, with which a
key of `properties` could be spelled as another one; keys of `properties` come in their order, before others. That
those others come only once is not enforced.

The grammar does not force the usual split into tokens where only one text can follow (`no_forcing`). Forcing would
tokenise all text that is certain again at every step: seconds for a long `const`.
"""

from __future__ import annotations

import json
from typing import Any

from llguidance import regex_to_lark

from qwartet.engine.structure import Structure, ToolCalls
from qwartet.engine.structure_limits import check_choice, check_regex, parse_schema, parse_schemas

JSON_OPTIONS = {"whitespace_pattern": r"[ \t]?|\r?\n[ \t]{0,64}", "json_allowed_escapes": '"\\bfnrt'}
MAX_THOUGHT_CHARS = 512  # before a call that is required: no thought goes on for ever

_HEAD = '%llguidance {"no_forcing": true}\n'


def write_grammar(structure: Structure) -> str:
    """A structure as a grammar for llguidance; RequestError where it is not well formed or above the limits."""
    if structure.json_object:
        return _HEAD + f"start: {_json({'type': 'object'})}\n"
    if structure.json_schema is not None:
        return _HEAD + f"start: {_json(parse_schema(structure))}\n"
    if structure.regex is not None:
        check_regex(structure.regex)
        return _HEAD + f"start: /{regex_to_lark(structure.regex, '')}/\n"
    if structure.tool_calls is not None:
        calls = structure.tool_calls
        schemas = parse_schemas([schema for _, schema in calls.schemas])
        arguments = "".join(f"args{i}: {_json(schema)}\n" for i, schema in enumerate(schemas))
        return _HEAD + (_required_call(calls) if calls.is_required else _text_with_calls(calls)) + arguments
    assert structure.choice is not None, "a structure is one of five kinds"
    check_choice(structure.choice)
    return _HEAD + f"start: CHOICE\nCHOICE: {' | '.join(map(json.dumps, structure.choice))}\n"


def _json(schema: dict[str, Any]) -> str:
    return f"%json {json.dumps(schema | {'x-guidance': JSON_OPTIONS})}"


def _required_call(calls: ToolCalls) -> str:
    """A thought of one line, and a call of one of the tools."""
    opening = '" "' if calls.begins_in_thought else '"Thought: "'
    choices = (f'"{name}\\nAction Input: " args{i}' for i, (name, _) in enumerate(calls.schemas))
    return (
        f'start: {opening} THOUGHT "\\nAction: " ({" | ".join(choices)})\n'
        f"THOUGHT: /[^\\s][^\\n]{{0,{MAX_THOUGHT_CHARS - 1}}}/\n"
    )


def _text_with_calls(calls: ToolCalls) -> str:
    """Any text, line by line; after `Action: NAME` and `Action Input:` stand arguments, unless the answer has begun.

    States: `before`, and `called{i}` after the line `Action: NAME{i}`. They recur to the left, which costs a parser of
    this kind (Earley's) nothing. A text that goes on in a thought begins with a line that is no marker.
    """
    places = range(len(calls.schemas))
    names = "|".join(name for name, _ in calls.schemas)
    ends = [
        *("before LAST", "called LAST_BUT_INPUT", "before ANSWER", "called ANSWER"),
        *(f'called{i} "Action Input:" " "? args{i}' for i in places),
    ]
    if calls.begins_in_thought:
        ends.append("ANY_LAST")
    first = "ANY_LINE" if calls.begins_in_thought else '""'
    rules = [
        f"start: {' | '.join(ends)}",
        f"before: {first} | before LINE | called LINE_BUT_INPUT",
        f"called: {' | '.join(f'called{i}' for i in places)}",
        *(f"called{i}: before NAME{i} | called NAME{i}" for i in places),
        *(f"NAME{i}: {_name_line(name)}" for i, (name, _) in enumerate(calls.schemas)),
        f"LINE: ANY_LINE & ~{_name_line(names)} & ~/Final Answer:[^\\n]*\\n/",
        "LINE_BUT_INPUT: LINE & ~/Action Input:[^\\n]*\\n/",
        "LAST: ANY_LAST & ~/Final Answer:[^\\n]*/",
        "LAST_BUT_INPUT: LAST & ~/Action Input:[^\\n]*/",
        "ANSWER: /(?s:Final Answer:.*)/",
        "ANY_LINE: /[^\\n]*\\n/",
        "ANY_LAST: /[^\\n]*/",
    ]
    return "\n".join(rules) + "\n"


def _name_line(names: str) -> str:
    return f"/Action:[ \\t\\r]*({names})[ \\t\\r]*\\n/"
