"""The code of an answer, as the published HumanEval scripts cut it out.

The patterns are the protocol: they are those of eval/evaluate_chat_humaneval.py of the Qwen repository. What they find
is the body of a function, which continues the problem's prompt.
"""

from __future__ import annotations

import re
import textwrap

BASE_STOPS = ("\n\n", "def ")  # eval/evaluate_humaneval.py
_END_OF_BODY = r"(?:\n(?!\n*(?:  |\t))|$)"


def body_in_answer(text: str, entry_point: str) -> str:
    """The body of the function in a chat model's answer: fenced, else bare, else any function's, else all of it."""
    name = re.escape(entry_point)
    for pattern in (
        rf"```(?:[Pp]ython\n)?.*?def\s+{name}.*?:\n(.*?)\n```",
        rf"def\s+{name}.*?:\n(.*?){_END_OF_BODY}",
        rf"def.*?:\n(.*?){_END_OF_BODY}",
    ):
        if match := re.search(pattern, text, re.DOTALL):
            return match[1]
    return textwrap.indent(text, " " * 4)


def body_in_continuation(text: str) -> str:
    """What a base model wrote up to a blank line or the next function."""
    for stop in BASE_STOPS:
        text = text.split(stop)[0]
    return text
