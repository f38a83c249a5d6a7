"""A structure written as a grammar for llguidance.

JSON is narrowed: between two parts there is nothing, one space, or a newline with its indent, so that no model emits
whitespace for ever, and around the document nothing; strings and keys have no \\u escapes, which could spell a key of
`properties` as another one; keys of `properties` come in their order, before others. That those others are unique is
not enforced.

The grammar does not force the usual split into tokens where only one text can follow (`no_forcing`). Forcing would
retokenise all forced text at every step: seconds for a long `const`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark

from qwartet.engine.structure import Structure, ToolCalls
from qwartet.engine.structure_limits import check_choice, check_regex, check_tools, parse_schema, parse_schemas
from qwartet.engine.tagged_grammar import NO_TAGS, start_rule, tagged_calls

JSON_OPTIONS = {"whitespace_pattern": r"[ \t]?|\r?\n[ \t]{0,64}", "json_allowed_escapes": '"\\bfnrt'}
MAX_THOUGHT_CHARS = 512  # before a required call, so that every thought ends

_HEAD = '%llguidance {"no_forcing": true}\n'


def write_grammar(structure: Structure, tag_ids: Mapping[str, int] = NO_TAGS) -> str:
    """A structure as a grammar for llguidance; StructureError where it is ill-formed or exceeds the limits.

    `tag_ids`: the tags that are one token of the vocabulary, such as <think>.
    """
    calls = structure.tool_calls
    if calls is None:
        body = _rules("body", structure, parse_schema(structure) if structure.json_schema is not None else {})
        return _HEAD + start_rule(structure.thinking, tag_ids) + body
    check_tools([name for name, _ in calls.schemas])
    places = [i for i, (_, schema) in enumerate(calls.schemas) if schema is not None]
    texts = calls.schema_texts
    if calls.answer is not None and calls.answer.json_schema is not None:
        texts.append(calls.answer.schema_text)
    schemas = parse_schemas(texts)
    of_tools = dict(zip(places, schemas, strict=False))
    answer = "" if calls.answer is None else _rules("answer", calls.answer, schemas[-1] if schemas else {})
    if calls.form == "tagged":
        body = tagged_calls(calls, tag_ids) + _arguments(calls, of_tools, _json({"type": "object"}))
    else:
        body = _call_or_text(calls) + _arguments(calls, of_tools, "/(?s:.*)/")
    return _HEAD + start_rule(structure.thinking, tag_ids) + body + answer


def _rules(name: str, structure: Structure, schema: dict[str, Any]) -> str:
    """The rule of a structure without calls; `schema` is set for the kind json_schema."""
    if structure.json_object:
        return f"{name}: {_json({'type': 'object'})}\n"
    if structure.json_schema is not None:
        return f"{name}: {_json(schema)}\n"
    if structure.regex is not None:
        check_regex(structure.regex)
        return f"{name}: /{regex_to_lark(structure.regex, '')}/\n"
    assert structure.choice is not None, "a structure is one of five kinds"
    check_choice(structure.choice)
    return f"{name}: CHOICE\nCHOICE: {' | '.join(map(json.dumps, structure.choice))}\n"


def _json(schema: dict[str, Any]) -> str:
    return f"%json {json.dumps(schema | {'x-guidance': JSON_OPTIONS})}"


def _call_or_text(calls: ToolCalls) -> str:
    """A one-line thought and a call; or, where none is required, any lines and then a call, an answer, or nothing.

    With a structured answer it is the one-line thought, then the call or that answer: both have an end. Else a line
    that begins with `Action:` calls an existing tool, unless the answer has begun.
    """
    names = (f'"{name}\\nAction Input:" args{i}' for i, (name, _) in enumerate(calls.schemas))
    call = f'call: "Action: " ({" | ".join(names)})\n'
    if calls.is_required or calls.answer is not None:
        opening = '" "' if calls.begins_in_thought else '"Thought: "'
        thought = f"THOUGHT: /[^\\s][^\\n]{{0,{MAX_THOUGHT_CHARS - 1}}}/\n"
        final = "" if calls.answer is None else ' | "Final Answer: " answer'
        return f'body: {opening} THOUGHT "\\n" (call{final})\n{thought}{call}'
    rules = [
        "body: lines call | lines ANSWER | lines LAST_LINE",
        'lines: "" | lines LINE',  # left recursion, which is free for an Earley parser
        "LINE: /[^\\n]*\\n/ & ~/(Action|Final Answer):[^\\n]*\\n/",
        "LAST_LINE: /[^\\n]*/ & ~/(Action|Final Answer):[^\\n]*/",
        "ANSWER: /(?s:Final Answer:.*)/",
    ]
    if calls.begins_in_thought:  # then the first line cannot be a marker
        rules[0] += " | /[^\\n]*/"
        rules[1] = "lines: /[^\\n]*\\n/ | lines LINE"
    return "\n".join(rules) + f"\n{call}"


def _arguments(calls: ToolCalls, schemas: dict[int, dict[str, Any]], anything: str) -> str:
    """The arguments of each tool: JSON of its schema, or `anything` where it has none."""
    space = '" "? ' if calls.form == "react" else ""
    rules = {i: f"{space}{_json(schema)}" for i, schema in schemas.items()}
    return "".join(f"args{i}: {rules.get(i, anything)}\n" for i in range(len(calls.schemas)))
