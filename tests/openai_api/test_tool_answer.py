"""Scripted outputs to messages and to stream deltas, which add up to the same message."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.openai_api.answer_objects import FinishReason
from qwartet.openai_api.answer_stream import AnswerReading, AnswerStream, answer_message
from qwartet.openai_api.protocol import ChatCompletionRequest
from qwartet.openai_api.tools import ToolChat, tool_chat
from qwartet.tokenizer.react import react_answer, react_call

ASKED = [{"role": "user", "content": "What time is it?"}]
FUNCTION = {"name": "clock"}
CALL = react_call("I need it.", "clock", '{"city": "Oslo"}')
CALLED = {"role": "assistant", "content": None, "function_call": {"name": "clock", "arguments": "{}"}}
RESULT = {"role": "function", "name": "clock", "content": "noon"}


def chat_of(*, is_legacy: bool = False, is_open: bool = False, has_tools: bool = True) -> ToolChat:
    fields = {"functions": [FUNCTION]} if is_legacy else {"tools": [{"type": "function", "function": FUNCTION}]}
    messages = [*ASKED, CALLED, RESULT] if is_open else ASKED
    body = {"messages": messages, **(fields if has_tools else {})}
    chat = tool_chat(ChatCompletionRequest.model_validate(body))
    assert chat is not None
    return chat


CHATS = [
    chat_of(),
    chat_of(is_legacy=True),
    chat_of(is_open=True),
    chat_of(is_open=True, is_legacy=True),
    chat_of(is_open=True, has_tools=False),
    replace(chat_of(), tells_thought=False),
    replace(chat_of(is_open=True), tells_thought=False),
]


def message_of(chat: ToolChat, text: str, reason: FinishReason = "stop") -> tuple[dict[str, Any], str]:
    """The message as it is sent, without the id of a call."""
    message, found = answer_message(AnswerReading(chat), text, reason)
    sent = message.model_dump()
    for call in sent.get("tool_calls", ()):
        assert call.pop("id").startswith("call_")
    return sent, found


def streamed(chat: ToolChat, pieces: list[str], reason: FinishReason = "stop") -> tuple[dict[str, Any], str]:
    """The message that a client assembles from the deltas, as OpenAI's does."""
    stream = AnswerStream(AnswerReading(chat))
    deltas = [delta for piece in pieces for delta in stream.feed(piece)] + stream.finish()
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for delta in deltas:
        sent = delta.model_dump(exclude_none=True)
        assert len(sent) == 1, "each delta says one thing"
        if "content" in sent:
            message["content"] = (message["content"] or "") + sent["content"]
        elif "function_call" in sent:
            call = message.setdefault("function_call", {"name": sent["function_call"].get("name"), "arguments": ""})
            call["arguments"] += sent["function_call"]["arguments"]
        else:
            (part,) = sent["tool_calls"]
            assert part["index"] == 0 and ("id" in part) == ("tool_calls" not in message) == ("type" in part)
            first = {"type": part.get("type"), "function": {"name": part["function"].get("name"), "arguments": ""}}
            (call,) = message.setdefault("tool_calls", [first])
            call["function"]["arguments"] += part["function"]["arguments"]
    if not {"tool_calls", "function_call"} & message.keys() and message["content"] is None:
        message["content"] = ""
    return message, stream.finish_reason(reason)


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_call_has_no_content_where_content_has_a_form_to_fit(is_legacy: bool) -> None:
    """SDKs parse the content of every answer by response_format, calls or not."""
    chat = replace(chat_of(is_legacy=is_legacy), tells_thought=False)
    for found in (message_of(chat, CALL), streamed(chat, list(CALL))):
        assert found[0]["content"] is None and found[1] == ("function_call" if is_legacy else "tool_calls")
    assert message_of(chat, react_answer('{"a": 1}'))[0]["content"] == '{"a": 1}'


def test_a_call_is_told_of_with_its_thought_as_content() -> None:
    function = {"name": "clock", "arguments": '{"city": "Oslo"}'}
    message = {"role": "assistant", "content": "I need it.", "refusal": None}
    calls = [{"type": "function", "function": function}]
    assert message_of(chat_of(), CALL) == (message | {"tool_calls": calls}, "tool_calls")
    assert message_of(chat_of(is_legacy=True), CALL) == (message | {"function_call": function}, "function_call")


def test_without_a_thought_the_content_of_a_call_is_null() -> None:
    message, _ = message_of(chat_of(), "Action: clock\nAction Input: {}")
    assert message["content"] is None


@pytest.mark.parametrize("chat", CHATS)
def test_an_answer_is_its_text_alone(chat: ToolChat) -> None:
    output = " noon" if chat.begins_in == "answer" else react_answer("noon")
    assert message_of(chat, output) == ({"role": "assistant", "content": "noon", "refusal": None}, "stop")
    assert message_of(chat, output, "length")[1] == "length"


def test_where_no_tool_can_be_called_nothing_is_a_call() -> None:
    chat = chat_of(is_open=True, has_tools=False)
    message, reason = message_of(chat, f" noon\n{CALL}")
    assert (message["content"], reason) == (f"noon\n{CALL}", "stop")


def test_a_call_that_is_cut_off_ends_in_length() -> None:
    for pieces in ([CALL[:-3]], list(CALL[:-3])):
        assert streamed(chat_of(), pieces, "length") == message_of(chat_of(), CALL[:-3], "length")
    assert message_of(chat_of(), CALL[:-3], "length")[1] == "length"


def test_a_name_that_no_tool_has_is_passed_on() -> None:
    message, _ = message_of(chat_of(), react_call("a", "rain gauge", "{}"))
    assert message["tool_calls"][0]["function"]["name"] == "rain gauge"
    history = [*ASKED, message | {"tool_calls": [message["tool_calls"][0] | {"id": "1"}]}]
    history.append({"role": "tool", "tool_call_id": "1", "content": "there is no such tool"})
    tools = [{"type": "function", "function": FUNCTION}]
    chat = tool_chat(ChatCompletionRequest.model_validate({"messages": history, "tools": tools}))
    assert chat is not None and "Action: rain gauge\n" in chat.answer_start, "and can be sent back"


@pytest.mark.parametrize(
    "arguments", ["__import__('os').system('exit 1')", "{'city': 'Oslo'}", '{"city":', "[" * 10_000, "1e999", "null"]
)
def test_arguments_are_passed_on_as_text_and_never_evaluated_sec_04(arguments: str) -> None:
    output = react_call("a", "clock", arguments)
    message, _ = message_of(chat_of(), output)
    assert message["tool_calls"][0]["function"]["arguments"] == arguments
    assert streamed(chat_of(), list(output))[0] == message
    json.dumps(message)


PIECE = st.sampled_from(
    [
        *("Thought: a", "\nThought:", "\nAction:", "\nAction: clock", "\nAction Input:", "\nAction Input: {}"),
        *("\nObservation:", "\nFinal Answer:", "Final Answer: b", "\n", " ", "x", '{"city": "北京"}', "clock"),
    ]
)
OUTPUT = st.lists(PIECE, max_size=12).map("".join)


@given(output=OUTPUT, chat=st.sampled_from(CHATS), reason=st.sampled_from(["stop", "length"]), data=st.data())
def test_the_pieces_of_a_stream_are_the_message(
    output: str, chat: ToolChat, reason: FinishReason, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=8)))
    pieces = [output[start:end] for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True)]
    assert streamed(chat, pieces, reason) == message_of(chat, output, reason)


@given(thought=st.sampled_from(["I need it.", "a\nb", "天气"]), arguments=st.sampled_from(["{}", '{"a": "\\n"}', ""]))
def test_a_call_that_is_sent_back_stands_in_the_prompt_as_the_model_wrote_it(thought: str, arguments: str) -> None:
    output = react_call(thought, "clock", arguments)
    for chat in (chat_of(), chat_of(is_legacy=True)):
        message, _ = answer_message(AnswerReading(chat), output, "stop")
        sent = message.model_dump()
        result = RESULT
        if not chat.is_legacy:
            result = {"role": "tool", "tool_call_id": sent["tool_calls"][0]["id"], "content": "noon"}
        body = {"messages": [*ASKED, sent, result], "tools": [{"type": "function", "function": FUNCTION}]}
        again = tool_chat(ChatCompletionRequest.model_validate(body))
        assert again is not None
        assert again.answer_start == f"{output.rstrip()}\nObservation: noon\nThought:"


@pytest.mark.parametrize("unit", ["\nAction:", "\nAction: a\nAction Input:", "\n", " ", "\nFinal Answer", "Thought: "])
@pytest.mark.parametrize("chat", [CHATS[0], CHATS[2], CHATS[4]])
def test_a_megabyte_of_markers_takes_linear_time_sec_09(unit: str, chat: ToolChat) -> None:
    output = unit * (1_000_000 // len(unit))
    start = time.thread_time()
    answer_message(AnswerReading(chat), output, "stop")
    assert time.thread_time() - start < 3  # about 1 s on a typical core; minutes if it were not linear
    stream = AnswerStream(AnswerReading(chat))
    start = time.thread_time()
    for first in range(0, len(output), 100):
        stream.feed(output[first : first + 100])
    stream.finish()
    assert time.thread_time() - start < 3
