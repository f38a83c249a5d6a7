"""The code that an answer in ReAct's form wants run, as Qwen-Agent's benchmark of the code interpreter finds it.

The steps are those of parser/react_parser.py and utils/code_utils.py in its benchmark/.
"""

from __future__ import annotations

_ACTION, _INPUT, _OBSERVATION = "\nAction:", "\nAction Input:", "\nObservation:"
_FENCE = "```"


def latest_call(text: str) -> tuple[str, str] | None:
    """The text up to where the observation goes, and the input of its last action; None where it calls nothing.

    An answer that stopped before "Observation:" ends with the line feed before it.
    """
    action_at, input_at = text.rfind(_ACTION), text.rfind(_INPUT)
    if not 0 <= action_at < input_at or not text[action_at + len(_ACTION) : input_at].strip():
        return None
    if (end := text.rfind(_OBSERVATION)) < input_at:
        end = len(text) - 1 if text.endswith("\n") else len(text.rstrip())
    return text[:end], text[input_at + len(_INPUT) : end].strip()


def code_of_input(text: str) -> str:
    """The code of an action's input: between triple backticks, else single ones, else JSON's "code", else all of it."""
    import json5

    # ```[^\n]*\n(.+?)```
    if (fence := text.find(_FENCE)) >= 0 and (line := text.find("\n", fence)) >= 0:
        end = text.find(_FENCE, line + 2)
        if end >= 0:
            return text[line + 1 : end]
    # `([^`]*)`
    if (start := text.find("`")) >= 0 and (end := text.find("`", start + 1)) >= 0:
        return text[start + 1 : end]
    try:
        code = json5.loads(text)["code"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return text
    return code if isinstance(code, str) else text
