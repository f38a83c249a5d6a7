"""From the model's text in a chat to a message, complete or streamed: reasoning, content and calls.

    text of the answer -> ThinkingStream -> reasoning_content
                               |-> ReactStream or CallStream, in a chat with tools -> content, calls
                               |-> otherwise -> content

Text before a call is the message's content, as in the original server, unless the content must match a format: SDKs
then parse any content, even next to a call. Arguments are passed on as written: they are plain text here, and valid
JSON only if the request required that.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from qwartet.openai_api.answer_objects import (
    THINKING_KINDS,
    AnswerMessage,
    AnyMessage,
    ChatDelta,
    FinishReason,
    FunctionCallDelta,
    FunctionCallMessage,
    ToolCallDelta,
    ToolCallsMessage,
)
from qwartet.openai_api.tool_protocol import FunctionCall, ToolCall
from qwartet.openai_api.tools import ToolChat
from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.call_stream import CallStream
from qwartet.tokenizer.react_stream import ReactStream
from qwartet.tokenizer.thinking import ThinkingPart, ThinkingStream


@dataclass(frozen=True)
class AnswerReading:
    """How the answers of a chat are parsed."""

    tools: ToolChat | None = None
    thinking: ThinkingPart = "answer"  # where the prompt ends
    tells_reasoning: bool = True


PLAIN = AnswerReading()


class AnswerStream:
    """Takes pieces of an answer's text and returns those of the message.

    stream = AnswerStream(reading)
    deltas = stream.feed(text)                    for each piece
    deltas = stream.finish()                      after the last one
    reason = stream.finish_reason(reason)         "stop" becomes "tool_calls" if there is a call
    """

    def __init__(self, reading: AnswerReading) -> None:
        self._reading = reading
        self._thinking = ThinkingStream(reading.thinking)
        tools = reading.tools
        self._calls: ReactStream | CallStream | None = None
        if tools is not None and tools.form == "react":
            self._calls = ReactStream(tools.begins_in)
        elif tools is not None and tools.has_tools:
            self._calls = CallStream(only_first=not tools.takes_several)
        self._num_calls = 0

    def feed(self, text: str) -> list[ChatDelta]:
        """The deltas that one more piece makes certain."""
        return self._deltas(self._thinking.feed(text))

    def finish(self) -> list[ChatDelta]:
        """What was held back."""
        deltas = self._deltas(self._thinking.finish())
        return deltas + ([] if self._calls is None else self._told(self._calls.finish()))

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        """The finish reason of the answer, given that of its text; truncated arguments are like truncated text."""
        if reason != "stop" or not self._num_calls:
            return reason
        return "function_call" if self._is_legacy else "tool_calls"

    @property
    def _is_legacy(self) -> bool:
        return self._reading.tools is not None and self._reading.tools.is_legacy

    def _deltas(self, deltas: list[AnswerDelta]) -> list[ChatDelta]:
        found: list[ChatDelta] = []
        for delta in deltas:
            if delta.reasoning:
                found += [ChatDelta(reasoning_content=delta.reasoning)] if self._reading.tells_reasoning else []
            elif self._calls is not None:
                found += self._told(self._calls.feed(delta.text))
            else:
                found.append(ChatDelta(content=delta.text))
        return found

    def _told(self, deltas: list[AnswerDelta]) -> list[ChatDelta]:
        tools = self._reading.tools
        if tools is not None and not tools.tells_thought and any(delta.name is not None for delta in deltas):
            deltas = [delta for delta in deltas if not delta.text]  # a thought arrives together with its call
        return list(map(self._delta, deltas))

    def _delta(self, delta: AnswerDelta) -> ChatDelta:
        if delta.text:
            return ChatDelta(content=delta.text)
        function = FunctionCallDelta(name=delta.name, arguments=delta.arguments)
        self._num_calls += delta.name is not None
        if self._is_legacy:
            return ChatDelta(function_call=function)
        index = self._num_calls - 1
        if delta.name is None:
            return ChatDelta(tool_calls=[ToolCallDelta(index=index, function=function)])
        call = ToolCallDelta(index=index, id=f"call_{secrets.token_hex(12)}", type="function", function=function)
        return ChatDelta(tool_calls=[call])


def answer_message(reading: AnswerReading, text: str, reason: FinishReason) -> tuple[AnyMessage, FinishReason]:
    """The message for a complete text, and its finish reason, given that of the text."""
    stream = AnswerStream(reading)
    deltas = stream.feed(text) + stream.finish()
    content = "".join(delta.content or "" for delta in deltas)
    reasoning = "".join(delta.reasoning_content or "" for delta in deltas)
    calls = _calls(deltas)
    message: AnyMessage
    if not calls:
        message = AnswerMessage(content=content)
    elif reading.tools is not None and reading.tools.is_legacy:
        message = FunctionCallMessage(content=content or None, function_call=calls[0][1])
    else:
        called = [ToolCall(id=call_id, function=function) for call_id, function in calls]
        message = ToolCallsMessage(content=content or None, tool_calls=called)
    if reasoning:
        message = THINKING_KINDS[type(message)].model_validate({**dict(message), "reasoning_content": reasoning})
    return message, stream.finish_reason(reason)


def _calls(deltas: Sequence[ChatDelta]) -> list[tuple[str, FunctionCall]]:
    """The calls that deltas add up to, and their ids; a function_call has none."""
    calls: list[tuple[str, FunctionCall]] = []
    for delta in deltas:
        parts = [(call.id or "", call.function) for call in delta.tool_calls or ()]
        for call_id, function in parts if delta.function_call is None else [("", delta.function_call)]:
            if function.name is not None:
                calls.append((call_id, FunctionCall(name=function.name, arguments="")))
            calls[-1][1].arguments += function.arguments
    return calls
