"""From the model's text in a chat with tools to a message, complete or streamed.

A thought before a call is the message's content, as in the original server, unless the content must match a format:
SDKs then parse any content, even next to a call. Arguments are passed on as written: they are plain text here, and
valid JSON only if the request required that.
"""

from __future__ import annotations

import secrets

from qwartet.openai_api.answer_objects import (
    AnswerMessage,
    ChatDelta,
    FinishReason,
    FunctionCallDelta,
    FunctionCallMessage,
    ToolCallDelta,
    ToolCallsMessage,
)
from qwartet.openai_api.tool_protocol import FunctionCall, ToolCall
from qwartet.openai_api.tools import ToolChat
from qwartet.tokenizer.react_stream import ReactDelta, ReactStream, parse_react


def tool_message(
    chat: ToolChat, text: str, reason: FinishReason
) -> tuple[AnswerMessage | ToolCallsMessage | FunctionCallMessage, FinishReason]:
    """The message for a complete text, and its finish reason, given that of the text."""
    reply = parse_react(text, chat.begins_in)
    if reply.name is None:
        return AnswerMessage(content=reply.text), reason
    thought = reply.text or None if chat.tells_thought else None
    call = FunctionCall(name=reply.name, arguments=reply.arguments)
    message: ToolCallsMessage | FunctionCallMessage
    if chat.is_legacy:
        message = FunctionCallMessage(content=thought, function_call=call)
    else:
        message = ToolCallsMessage(content=thought, tool_calls=[ToolCall(id=_new_id(), function=call)])
    return message, call_reason(chat, reason)


def call_reason(chat: ToolChat, reason: FinishReason) -> FinishReason:
    """The finish reason of an answer with a call; truncated arguments are reported like truncated text."""
    if reason != "stop":
        return reason
    return "function_call" if chat.is_legacy else "tool_calls"


class ToolStream:
    """The same for a stream: takes pieces of the text and returns those of the message.

        stream = ToolStream(chat)
        deltas = stream.feed(text)                    for each piece
        deltas = stream.finish()                      after the last one
        reason = stream.finish_reason(reason)         "stop" becomes "tool_calls" if there is a call

    The deltas together equal what `tool_message` returns for the complete text.
    """

    def __init__(self, chat: ToolChat) -> None:
        self._chat = chat
        self._react = ReactStream(chat.begins_in)

    def feed(self, text: str) -> list[ChatDelta]:
        """The deltas that one more piece makes certain."""
        return self._deltas(self._react.feed(text))

    def finish(self) -> list[ChatDelta]:
        """What was held back."""
        return self._deltas(self._react.finish())

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        """The finish reason of the answer, given that of its text."""
        return call_reason(self._chat, reason) if self._react.is_call else reason

    def _deltas(self, deltas: list[ReactDelta]) -> list[ChatDelta]:
        if not self._chat.tells_thought and any(delta.name is not None for delta in deltas):
            deltas = [delta for delta in deltas if not delta.text]  # a thought arrives together with its call
        return list(map(self._delta, deltas))

    def _delta(self, delta: ReactDelta) -> ChatDelta:
        if delta.name is None and not delta.arguments:
            return ChatDelta(content=delta.text)
        function = FunctionCallDelta(name=delta.name, arguments=delta.arguments)
        if self._chat.is_legacy:
            return ChatDelta(function_call=function)
        if delta.name is None:
            return ChatDelta(tool_calls=[ToolCallDelta(index=0, function=function)])
        return ChatDelta(tool_calls=[ToolCallDelta(index=0, id=_new_id(), type="function", function=function)])


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"
