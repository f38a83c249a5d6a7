"""The rules of a grammar for what stands between tags: thinking, and the calls of Qwen2.5 and Qwen3.

A tag is one token where the vocabulary has it (`tag_ids`), and no text matches that token. Elsewhere it is text, and
one terminal holds it together with the text before it: the lexer could not tell them apart. In both cases the text
before a tag does not contain it, since the parsers of answers read text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from qwartet.engine.structure import ToolCalls
from qwartet.tokenizer.call_stream import CALL, END_CALL
from qwartet.tokenizer.thinking import END_THINK, THINK, ThinkingPart

NO_TAGS: Mapping[str, int] = MappingProxyType({})


def thinking_rules(begins_in: ThinkingPart, tag_ids: Mapping[str, int]) -> str:
    """The rule `start`: thinking and the body, or, if the prompt does not begin with it, the body alone."""
    thought, terminals = _until(END_THINK, "THOUGHT", tag_ids)
    whole = f"{thought} SPACE? body"
    start = whole if begins_in == "thinking" else f"body | {_tag(THINK, tag_ids)} {whole}"
    return f"start: {start}\n{terminals}SPACE: /[ \\n]{{1,4}}/\n"


def tagged_calls(calls: ToolCalls, tag_ids: Mapping[str, int]) -> str:
    """The rule `body`: calls, or an answer that has a structure, or a text in which each tag begins a call."""
    names = (f'{json.dumps(name)[1:-1]}\\", \\"arguments\\": " args{i}' for i, (name, _) in enumerate(calls.schemas))
    heads = " | ".join(f'"\\n{{\\"name\\": \\"{name}' for name in names)
    call = f'call: ({heads}) "}}\\n" {_tag(END_CALL, tag_ids)}\n'
    if calls.is_required or calls.answer is not None:
        several = f'{_tag(CALL, tag_ids)} call ("\\n" {_tag(CALL, tag_ids)} call)*'
        body = several if calls.takes_several else f"{_tag(CALL, tag_ids)} call"
        return f"body: {body}{'' if calls.answer is None else ' | answer'}\n{call}"
    until, terminals = _until(CALL, "TEXT", tag_ids)
    if calls.takes_several:
        # Left recursion, which is free for an Earley parser.
        return f'body: called TEXT?\ncalled: "" | called {until} call\n{terminals}{call}'
    return f"body: TEXT? | {until} call\n{terminals}{call}"


def _tag(tag: str, tag_ids: Mapping[str, int]) -> str:
    return f"<[{tag_ids[tag]}]>" if tag in tag_ids else json.dumps(tag)


def _until(tag: str, name: str, tag_ids: Mapping[str, int]) -> tuple[str, str]:
    """What matches any text up to a tag, and the tag; and the terminals that it needs."""
    without = "~/(?s:.*)" + tag.replace("/", "\\/") + "(?s:.*)/"
    text = f"{name}: /(?s:.+)/ & {without}\n"
    if tag in tag_ids:
        return f"{name}? {_tag(tag, tag_ids)}", text
    return f"{name}_AND_TAG", f"{text}{name}_AND_TAG: (/(?s:.*)/ & {without}) {json.dumps(tag)}\n"
