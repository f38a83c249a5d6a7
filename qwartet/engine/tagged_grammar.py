"""The rules of a grammar for what stands between tags: thinking, and the calls of Qwen2.5 and Qwen3.

A tag is one token where the vocabulary has it (`tag_ids`), and no text matches that token. A vocabulary without <think>
has no thinking. <tool_call> may also be text: then one terminal holds it together with the text before it, since the
lexer could not tell them apart. Text before a tag does not spell it, because the parsers of answers read text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from qwartet.engine.structure import ToolCalls
from qwartet.tokenizer.call_stream import CALL, END_CALL
from qwartet.tokenizer.thinking import END_THINK, THINK, ThinkingPart

NO_TAGS: Mapping[str, int] = MappingProxyType({})


def start_rule(begins_in: ThinkingPart, tag_ids: Mapping[str, int]) -> str:
    """The rule `start`: the body, and, as far as the prompt does not exclude it, thinking before it."""
    if begins_in == "answer" or not {THINK, END_THINK} <= tag_ids.keys():
        return "start: body\n"
    whole = f"thought {_token(END_THINK, tag_ids)} SPACE? body"
    start = whole if begins_in == "thinking" else f"body | {_token(THINK, tag_ids)} {whole}"
    return f"start: {start}\n{_free_text('thought', END_THINK, tag_ids)}SPACE: /[ \\n]{{1,4}}/\n"


def tagged_calls(calls: ToolCalls, tag_ids: Mapping[str, int]) -> str:
    """The rule `body`: calls, or an answer that has a structure, or a text in which each tag begins a call."""
    names = (f'{json.dumps(name)[1:-1]}\\", \\"arguments\\": " args{i}' for i, (name, _) in enumerate(calls.schemas))
    heads = " | ".join(f'"\\n{{\\"name\\": \\"{name}' for name in names)
    tag, end = _token(CALL, tag_ids), _token(END_CALL, tag_ids)
    call = f'call: ({heads}) "}}\\n" {end}\n'
    if calls.is_required or calls.answer is not None:
        body = f'{tag} call ("\\n" {tag} call)*' if calls.takes_several else f"{tag} call"
        return f"body: {body}{'' if calls.answer is None else ' | answer'}\n{call}"
    terminals = _free_text("text", CALL, tag_ids)
    until = f"text {tag}"
    if CALL not in tag_ids:
        until = "TEXT_AND_TAG"
        terminals += f"TEXT_AND_TAG: (/(?s:.*)/ & {_without(CALL)}) {tag}\n"
    if calls.takes_several:
        # Left recursion, which is free for an Earley parser.
        return f'body: called text\ncalled: "" | called {until} call\n{terminals}{call}'
    return f"body: text | {until} call\n{terminals}{call}"


def _free_text(name: str, end: str, tag_ids: Mapping[str, int]) -> str:
    """The rule of any text up to a tag; other tags may be part of it, except <think>: it must mean one thing only."""
    others = ",".join(str(token_id) for tag, token_id in tag_ids.items() if tag not in (end, THINK))
    terminal = name.upper()
    part = f"({terminal} | <[{others}]>)" if others else terminal
    return f'{name}: "" | {name} {part}\n{terminal}: /(?s:.+)/ & {_without(end)}\n'


def _without(tag: str) -> str:
    return "~/(?s:.*)" + tag.replace("/", "\\/") + "(?s:.*)/"


def _token(tag: str, tag_ids: Mapping[str, int]) -> str:
    return f"<[{tag_ids[tag]}]>" if tag in tag_ids else json.dumps(tag)
