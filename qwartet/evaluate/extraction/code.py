"""The code of an answer, as the published HumanEval scripts cut it out.

The patterns are the protocol: they are those of eval/evaluate_chat_humaneval.py of the Qwen repository, followed step
by step, so that a long answer takes time in proportion to its length. What they find is the body of a function, which
continues the problem's prompt.
"""

from __future__ import annotations

import re
import textwrap

BASE_STOPS = ("\n\n", "def ")  # eval/evaluate_humaneval.py
_FENCE = "```"
_NEWLINES = re.compile(r"\n+")


def body_in_answer(text: str, entry_point: str) -> str:
    """The body of the function in a chat model's answer: fenced, else bare, else any function's, else all of it."""
    head = re.compile(rf"def\s+{re.escape(entry_point)}")
    # ```(?:[Pp]ython\n)?.*?def\s+NAME.*?:\n(.*?)\n```
    if (fence := text.find(_FENCE)) >= 0:
        start = _body_start(text, head, fence + len(_FENCE))
        if start is not None and (end := text.find("\n" + _FENCE, start)) >= 0:
            return text[start:end]
    # def\s+NAME.*?:\n(.*?)(?:\n(?!\n*(?:  |\t))|$), then the same with def alone
    for pattern in (head, re.compile("def")):
        if (start := _body_start(text, pattern, 0)) is not None:
            return text[start : _end_of_body(text, start)]
    return textwrap.indent(text, " " * 4)


def _body_start(text: str, head: re.Pattern[str], begin: int) -> int | None:
    """Where the line after a function's head begins."""
    if (match := head.search(text, begin)) is None:
        return None
    colon = text.find(":\n", match.end())
    return None if colon < 0 else colon + 2


def _end_of_body(text: str, start: int) -> int:
    """Where the first line feed is that no indented line follows, blank lines apart."""
    for newlines in _NEWLINES.finditer(text, start):
        if not text.startswith(("  ", "\t"), newlines.end()):
            return newlines.start()
    return len(text)


def body_in_continuation(text: str) -> str:
    """What a base model wrote up to a blank line or the next function."""
    for stop in BASE_STOPS:
        text = text.split(stop)[0]
    return text
