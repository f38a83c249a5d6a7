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
from qwartet.engine.structure_limits import check_choice, check_regex, check_tools, parse_schema, parse_schemas

JSON_OPTIONS = {"whitespace_pattern": r"[ \t]?|\r?\n[ \t]{0,64}", "json_allowed_escapes": '"\\bfnrt'}
MAX_THOUGHT_CHARS = 512  # before a call that is required: no thought goes on for ever

_HEAD = '%llguidance {"no_forcing": true}\n'


def write_grammar(structure: Structure) -> str:
    """A structure as a grammar for llguidance; StructureError where it is not well formed or above the limits."""
    if structure.json_object:
        return _HEAD + f"start: {_json({'type': 'object'})}\n"
    if structure.json_schema is not None:
        return _HEAD + f"start: {_json(parse_schema(structure))}\n"
    if structure.regex is not None:
        check_regex(structure.regex)
        return _HEAD + f"start: /{regex_to_lark(structure.regex, '')}/\n"
    if structure.tool_calls is not None:
        calls = structure.tool_calls
        check_tools([name for name, _ in calls.schemas])
        return _HEAD + _call_or_text(calls) + _arguments(calls)
    assert structure.choice is not None, "a structure is one of five kinds"
    check_choice(structure.choice)
    return _HEAD + f"start: CHOICE\nCHOICE: {' | '.join(map(json.dumps, structure.choice))}\n"


def _json(schema: dict[str, Any]) -> str:
    return f"%json {json.dumps(schema | {'x-guidance': JSON_OPTIONS})}"


def _call_or_text(calls: ToolCalls) -> str:
    """A thought of one line and a call; or, where none is required, any lines and then a call, an answer, or nothing.

    So a line that begins with `Action:` calls a tool that there is, unless the answer has begun.
    """
    names = (f'"{name}\\nAction Input:" args{i}' for i, (name, _) in enumerate(calls.schemas))
    call = f'call: "Action: " ({" | ".join(names)})\n'
    if calls.is_required:
        opening = '" "' if calls.begins_in_thought else '"Thought: "'
        thought = f"THOUGHT: /[^\\s][^\\n]{{0,{MAX_THOUGHT_CHARS - 1}}}/\n"
        return f'start: {opening} THOUGHT "\\n" call\n{thought}{call}'
    rules = [
        "start: lines call | lines ANSWER | lines LAST_LINE",
        'lines: "" | lines LINE',  # recurs to the left, which costs a parser of this kind (Earley's) nothing
        "LINE: /[^\\n]*\\n/ & ~/(Action|Final Answer):[^\\n]*\\n/",
        "LAST_LINE: /[^\\n]*/ & ~/(Action|Final Answer):[^\\n]*/",
        "ANSWER: /(?s:Final Answer:.*)/",
    ]
    if calls.begins_in_thought:  # with a line that cannot be a marker
        rules[0] += " | /[^\\n]*/"
        rules[1] = "lines: /[^\\n]*\\n/ | lines LINE"
    return "\n".join(rules) + f"\n{call}"


def _arguments(calls: ToolCalls) -> str:
    """What each tool is called with: JSON of its schema, anything where it has none."""
    places = [i for i, (_, schema) in enumerate(calls.schemas) if schema is not None]
    schemas = parse_schemas(calls.schema_texts)
    rules = {i: f'" "? {_json(schema)}' for i, schema in zip(places, schemas, strict=True)}
    return "".join(f"args{i}: {rules.get(i, '/(?s:.*)/')}\n" for i in range(len(calls.schemas)))
