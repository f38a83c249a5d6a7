"""The messages of a chat as chat templates take them; the template decides what becomes of them.

    assistant   content, reasoning_content, tool_calls      arguments as an object if they are one
    tool        content                                     in the order of the calls, which templates rely on

A function_call and its result are laid out like a call of `tools`. Leading system messages are one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from qwartet.openai_api.conversation import results_of, split_system, unmatched_result, without_call, without_result
from qwartet.openai_api.protocol import AssistantMessage, ChatMessage, FunctionMessage, SystemMessage, ToolMessage
from qwartet.openai_api.tool_protocol import FunctionCall


def template_messages(given: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages; ApiError if a call lacks its result, or a result lacks its call."""
    system, messages = split_system(given)
    found = [] if system is None else [_message("system", system)]
    results: dict[str, str] = {}  # already laid out after their calls
    for index, message in enumerate(messages):
        place = f"messages.{len(given) - len(messages) + index}"
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in results:
                raise unmatched_result(message, place)
            del results[message.tool_call_id]
        elif isinstance(message, FunctionMessage):
            if not (found and "tool_calls" in found[-1]):
                raise without_call(place)
            found.append(_message("tool", message.text))
        elif isinstance(message, AssistantMessage):
            results = results_of(messages[index + 1 :], message, place)
            found += [_answer(message), *(_message("tool", result) for result in results.values())]
        else:
            found.append(_message("system" if isinstance(message, SystemMessage) else "user", message.text))
    if "tool_calls" in found[-1]:
        raise without_result(f"messages.{len(given) - 1}")
    return found


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def _answer(message: AssistantMessage) -> dict[str, Any]:
    answer = _message("assistant", message.text)
    if message.thinking is not None:
        answer["reasoning_content"] = message.thinking
    calls = [call.function for call in message.tool_calls or ()]
    calls += [] if message.function_call is None else [message.function_call]
    if calls:
        answer["tool_calls"] = [{"type": "function", "function": _call(call)} for call in calls]
    return answer


def _call(call: FunctionCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": _arguments(call.arguments)}


def _arguments(written: str) -> Any:
    """The object that is written; the text itself if it is none."""
    try:
        value = json.loads(written, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return written
    return value if isinstance(value, dict) else written


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
