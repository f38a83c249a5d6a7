"""A chat with tools as turns of text in the ReAct format, laid out as the original server did.

    user        the question; the last answered one, else the last one, begins with the tools
    assistant   Thought: ...                      content
                Action: ...                       name
                Action Input: ...                 arguments
                Observation: ...                  the message with the result
                Thought: I now know the final answer.
                Final Answer: ...                 content of an answer without a call

Consecutive calls, results and answers are one turn; system messages are turns of their own. If the last message is a
result, the prompt ends within that turn, after `Thought:`. This module only builds text, and the tokenizer never turns
text into control tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from qwartet.openai_api.conversation import (
    invalid,
    results_of,
    split_system,
    unmatched_result,
    without_call,
    without_result,
)
from qwartet.openai_api.protocol import (
    AssistantMessage,
    ChatMessage,
    FunctionMessage,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from qwartet.openai_api.tool_protocol import FunctionCall
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.react import NEXT_THOUGHT, react_answer, react_call, react_question, react_result
from qwartet.tokenizer.react_stream import ReactPart


class ReactChat(NamedTuple):
    """The turns, the beginning of the assistant's turn, and the part in which the answer begins."""

    messages: list[Message]
    answer_start: str  # empty unless the last message is a result
    begins_in: ReactPart


@dataclass(frozen=True)
class _Step:
    """A message in the original server's terms: an answer has at most one call, and a result follows its call."""

    role: Literal["system", "user", "assistant", "result"]
    text: str
    place: str  # path of the message in the request
    call: FunctionCall | None = None


@dataclass
class _Turn:
    role: Literal["system", "user", "assistant"]
    text: str


def react_chat(given: Sequence[ChatMessage], shown: Sequence[Mapping[str, Any]]) -> ReactChat:
    """The chat as text; `shown`: the tools in the notation of react.py.

    ApiError if a call lacks its result, a result lacks its call, or the order of messages is wrong.
    """
    system, messages = split_system(given)
    steps = _steps(messages, first_place=len(given) - len(messages))
    turns = _turns(steps, has_tools=bool(shown))
    if shown:
        _show(shown, turns)
    answer_start = ""
    begins_in: ReactPart = "start" if shown else "answer"
    if steps and steps[-1].role == "result":
        # Without tools no further call can follow, so the final thought is written for the model.
        end = NEXT_THOUGHT if shown else "\n" + react_answer("")
        answer_start = _trimmed(turns.pop().text + end)
        begins_in = "thought" if shown else "answer"
    first = [] if system is None else [Message("system", _trimmed(system))]
    return ReactChat(
        [*first, *(Message(turn.role, _trimmed(turn.text)) for turn in turns)], answer_start, begins_in
    )  # fmt: skip


def _steps(messages: Sequence[ChatMessage], first_place: int) -> list[_Step]:
    """One step per question, answer, call and result; each of several calls is followed by its own result."""
    steps: list[_Step] = []
    results: dict[str, str] = {}  # already laid out with their calls; their messages come next
    for index, message in enumerate(messages):
        place = f"messages.{first_place + index}"
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in results:
                raise unmatched_result(message, place)
            del results[message.tool_call_id]
            continue
        if isinstance(message, FunctionMessage):
            steps.append(_Step("result", message.text, place))
        elif isinstance(message, UserMessage | SystemMessage):
            steps.append(_Step("user" if isinstance(message, UserMessage) else "system", message.text, place))
        elif isinstance(message, AssistantMessage) and message.tool_calls is not None:
            results = results_of(messages[index + 1 :], message, place)
            for number, call in enumerate(message.tool_calls):
                steps.append(_Step("assistant", "" if number else message.text, place, call.function))
                steps.append(_Step("result", results[call.id], place))
        elif isinstance(message, AssistantMessage):
            steps.append(_Step("assistant", message.text, place, message.function_call))
    if steps and steps[-1].call is not None:
        raise without_result(steps[-1].place)
    return steps


def _turns(steps: Sequence[_Step], *, has_tools: bool) -> list[_Turn]:
    turns: list[_Turn] = []
    for step in steps:
        text = _trimmed(step.text)
        if step.role in ("user", "system"):
            turns.append(_Turn(step.role, text))
            continue
        continues = bool(turns) and turns[-1].role == "assistant"
        if step.role == "result":
            if not continues:
                raise without_call(step.place)
            turns[-1].text += react_result(text)
            continue
        if step.call is not None:
            written = react_call(text, step.call.name, step.call.arguments)
            text = written.removeprefix("Thought: ") if text.startswith("Thought:") else written
        elif has_tools:
            text = react_answer(text)
        if continues:
            turns[-1].text += f"\n{text}"
        else:
            turns.append(_Turn("assistant", _trimmed(text)))
    return turns


def _show(shown: Sequence[Mapping[str, Any]], turns: list[_Turn]) -> None:
    """Inserts the tools before the last answered question, else before the last question."""
    spoken = [turn for turn in turns if turn.role != "system"]
    questions = [index for index, turn in enumerate(spoken) if turn.role == "user"]
    if not questions:
        raise invalid("messages", "tools require a user message; add at least one")
    answered = [index for index in questions if index + 1 < len(spoken) and spoken[index + 1].role == "assistant"]
    question = spoken[(answered or questions)[-1]]
    question.text = react_question(shown, question.text)


def _trimmed(text: str) -> str:
    """Trimmed as in the original server: line breaks at the start, white space at the end."""
    return text.lstrip("\n").rstrip()
