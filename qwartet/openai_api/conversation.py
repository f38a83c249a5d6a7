"""The messages of a chat, whatever the form of its prompt: the system prompt, and the results of calls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile

from qwartet.openai_api.error import ApiError
from qwartet.openai_api.protocol import AssistantMessage, ChatMessage, FunctionMessage, SystemMessage, ToolMessage


def takes_part(message: ChatMessage) -> bool:
    """Whether a message is a call or a result."""
    if isinstance(message, AssistantMessage):
        return message.tool_calls is not None or message.function_call is not None
    return isinstance(message, ToolMessage | FunctionMessage)


def split_system(messages: Sequence[ChatMessage]) -> tuple[str | None, Sequence[ChatMessage]]:
    """The leading system messages as one text (None if there are none), and the other messages."""
    rest = list(dropwhile(lambda message: isinstance(message, SystemMessage), messages))
    first = messages[: len(messages) - len(rest)]
    return ("\n\n".join(message.text for message in first) if first else None), rest


def results_of(following: Sequence[ChatMessage], message: AssistantMessage, place: str) -> dict[str, str]:
    """The results of a message's calls by id, from the tool messages right after it."""
    found: dict[str, str] = {}
    for one in following:
        if not isinstance(one, ToolMessage):
            break
        found.setdefault(one.tool_call_id, one.text)
    results: dict[str, str] = {}
    for index, call in enumerate(message.tool_calls or ()):
        where = f"{place}.tool_calls.{index}"
        if call.id in results:
            raise invalid(where, f"duplicate call id {call.id!r:.80}; ids must be unique")
        if call.id not in found:
            raise invalid(where, f"the call {call.id!r:.80} has no result; send it right after, in a tool message")
        results[call.id] = found[call.id]
    return results


def unmatched_result(message: ToolMessage, place: str) -> ApiError:
    """The error for a result that belongs to no call of the message before it."""
    reason = f"{message.tool_call_id!r:.80} matches no unanswered call of the preceding assistant message"
    return invalid(f"{place}.tool_call_id", f"{reason}; send one result per call")


def without_result(place: str) -> ApiError:
    """The error for a conversation that ends with a function call."""
    return invalid(place, "the last message is a function call; append the function's result")


def without_call(place: str) -> ApiError:
    """The error for a result that comes first."""
    return invalid(place, "the result has no preceding call; send the assistant's message too")


def invalid(param: str, message: str) -> ApiError:
    """The error for a wrong value."""
    return ApiError(400, message, param=param, code="invalid_value")
