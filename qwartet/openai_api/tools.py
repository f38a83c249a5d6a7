"""A chat with tools to turns of text in the ReAct format, laid out as the original server did.

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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, Literal

from qwartet.engine.structure import ToolCalls
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.protocol import (
    AssistantMessage,
    ChatCompletionRequest,
    ChatMessage,
    FunctionMessage,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from qwartet.openai_api.tool_protocol import AllowedToolChoice, FunctionCall, LegacyFunction, NamedTool, ToolFunction
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.react import NEXT_THOUGHT, react_answer, react_call, react_question, react_result
from qwartet.tokenizer.react_stream import ReactPart

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
# A schema with one of these keys states for itself which properties it allows.
_OPEN_KEYS = frozenset(("additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"))


@dataclass(frozen=True)
class ToolChat:
    """A chat with tools as text, and how to parse its answer."""

    messages: list[Message]
    answer_start: str  # the beginning of the assistant's turn; empty unless the last message is a result
    begins_in: ReactPart  # the part in which the answer begins
    is_legacy: bool  # whether calls are returned as function_call
    calls: ToolCalls | None  # the constraint on calls, if there is one
    offered: ToolCalls | None  # the tools that may be called; None if none are shown
    has_tools: bool  # whether tools are shown and can be called
    tells_thought: bool = True  # before a call; false if clients expect content of a certain format


@dataclass(frozen=True)
class _Offered:
    """A tool that may be shown to the model."""

    name: str
    shown: dict[str, Any]  # in the prompt
    schema: dict[str, Any]  # of the arguments
    is_strict: bool


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


def tool_chat(body: ChatCompletionRequest) -> ToolChat | None:
    """The chat as text; None if it has no callable tools, no calls and no results.

    ApiError if a choice names an unknown tool, a call lacks its result, a result lacks its call, or the order of
    messages is wrong.
    """
    all_tools = _offered(body)
    allowed, required = _choice(body, [one.name for one in all_tools])
    shown = [one for one in all_tools if one.name in allowed]
    if not shown and not any(map(_takes_part, body.messages)):
        return None
    if body.add_generation_prompt is False:
        message = "add_generation_prompt: false is not supported with tools; leave it out"
        raise _invalid("add_generation_prompt", message)
    system, messages = split_system(body.messages)
    steps = _steps(messages, first_place=len(body.messages) - len(messages))
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
    schemas = {one.name: one.schema if one.is_strict else None for one in shown}
    offered = ToolCalls(schemas, is_required=False, begins_in_thought=begins_in == "thought") if shown else None
    first = [] if system is None else [Message("system", _trimmed(system))]
    return ToolChat(
        messages=[*first, *(Message(turn.role, _trimmed(turn.text)) for turn in turns)],
        answer_start=answer_start,
        begins_in=begins_in,
        is_legacy=body.functions is not None,
        calls=_tool_calls(shown, required, offered),
        offered=offered,
        has_tools=bool(shown),
    )


# Tools on offer


def _offered(body: ChatCompletionRequest) -> list[_Offered]:
    if body.tools is not None and body.functions is not None:
        raise _invalid("functions", "tools and functions are mutually exclusive; set only one")
    offered = [_of_function(one) for one in body.functions or ()] + [_of_tool(one.function) for one in body.tools or ()]
    seen: set[str] = set()
    for index, one in enumerate(offered):
        if one.name in seen:
            place = f"{'tools' if body.functions is None else 'functions'}.{index}"
            raise _invalid(place, f"duplicate name {one.name}; names must be unique")
        seen.add(one.name)
    return offered


def _choice(body: ChatCompletionRequest, names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The tools that may be called, and those of which one must be called, empty if the model chooses."""
    for field, owner, other in (("tool_choice", "tools", "functions"), ("function_call", "functions", "tools")):
        if getattr(body, field) is not None and getattr(body, other) is not None:
            raise _invalid(field, f"{field} belongs to {owner}, but the request has {other}; remove one of them")
        if getattr(body, field) not in (None, "none", "auto") and getattr(body, owner) is None:
            raise _invalid(field, f"{field} asks for a call, but there are no {owner}; add some")
    field = "function_call" if body.tool_choice is None else "tool_choice"
    choice = body.function_call if body.tool_choice is None else body.tool_choice
    if choice is None or isinstance(choice, str):
        return ([] if choice == "none" else names), (names if choice == "required" else ())
    if isinstance(choice, AllowedToolChoice):
        chosen = [tool.function.name for tool in choice.allowed_tools.tools]
    else:
        chosen = [choice.function.name if isinstance(choice, NamedTool) else choice.name]
    unknown = next((name for name in chosen if name not in names), None)
    if unknown is not None:
        raise _invalid(field, f"{field} names {unknown}, which does not exist; available: {', '.join(names):.200}")
    if isinstance(choice, AllowedToolChoice):
        return chosen, (chosen if choice.allowed_tools.mode == "required" else ())
    return names, chosen


def _of_tool(function: ToolFunction) -> _Offered:
    return _offer(function.name, function.name, function.description, function.parameters, bool(function.strict))


def _of_function(function: LegacyFunction) -> _Offered:
    name = function.name_for_model or function.name or ""
    human = function.name_for_human if function.name_for_human is not None else function.name or name
    description = function.description_for_model
    return _offer(name, human, function.description if description is None else description, function.parameters)


def _offer(name: str, human: str, description: str | None, parameters: Any, is_strict: bool = False) -> _Offered:
    shown = {
        "name_for_model": name,
        "name_for_human": human,
        "description_for_model": description or "",
        "parameters": NO_PARAMETERS if parameters is None else parameters,
    }
    return _Offered(name, shown, _argument_schema(parameters), is_strict)


def _argument_schema(parameters: Any) -> dict[str, Any]:
    """The schema that arguments must match: the tool's own, without unlisted properties unless it allows them."""
    if isinstance(parameters, list):  # Qwen's own notation, which is not a JSON schema
        return {"type": "object"}
    schema = NO_PARAMETERS if parameters is None else {"type": "object"} | parameters
    is_closed = "properties" in schema and not _OPEN_KEYS & schema.keys()
    return schema | {"additionalProperties": False} if is_closed else schema


def _tool_calls(shown: Sequence[_Offered], required: Sequence[str], offered: ToolCalls | None) -> ToolCalls | None:
    if offered is None:
        return None
    if required:
        schemas = {one.name: one.schema for one in shown if one.name in required}
        return ToolCalls(schemas, begins_in_thought=offered.begins_in_thought)
    return offered if any(one.is_strict for one in shown) else None


# Messages to steps, steps to turns


def _takes_part(message: ChatMessage) -> bool:
    if isinstance(message, AssistantMessage):
        return message.tool_calls is not None or message.function_call is not None
    return isinstance(message, ToolMessage | FunctionMessage)


def split_system(messages: Sequence[ChatMessage]) -> tuple[str | None, Sequence[ChatMessage]]:
    """The leading system messages as one text (None if there are none), and the other messages."""
    rest = list(dropwhile(lambda message: isinstance(message, SystemMessage), messages))
    first = messages[: len(messages) - len(rest)]
    return ("\n\n".join(message.text for message in first) if first else None), rest


def _steps(messages: Sequence[ChatMessage], first_place: int) -> list[_Step]:
    """One step per question, answer, call and result; each of several calls is followed by its own result."""
    steps: list[_Step] = []
    results: dict[str, str] = {}  # already laid out with their calls; their messages come next
    for index, message in enumerate(messages):
        place = f"messages.{first_place + index}"
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in results:
                reason = f"{message.tool_call_id!r:.80} matches no unanswered call of the preceding assistant message"
                raise _invalid(f"{place}.tool_call_id", f"{reason}; send one result per call")
            del results[message.tool_call_id]
            continue
        if isinstance(message, FunctionMessage):
            steps.append(_Step("result", message.text, place))
        elif isinstance(message, UserMessage | SystemMessage):
            steps.append(_Step("user" if isinstance(message, UserMessage) else "system", message.text, place))
        elif isinstance(message, AssistantMessage) and message.tool_calls is not None:
            results = _results(messages[index + 1 :], message, place)
            for number, call in enumerate(message.tool_calls):
                steps.append(_Step("assistant", "" if number else message.text, place, call.function))
                steps.append(_Step("result", results[call.id], place))
        elif isinstance(message, AssistantMessage):
            steps.append(_Step("assistant", message.text, place, message.function_call))
    if steps and steps[-1].call is not None:
        raise _invalid(steps[-1].place, "the last message is a function call; append the function's result")
    return steps


def _results(following: Sequence[ChatMessage], message: AssistantMessage, place: str) -> dict[str, str]:
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
            raise _invalid(where, f"duplicate call id {call.id!r:.80}; ids must be unique")
        if call.id not in found:
            raise _invalid(where, f"the call {call.id!r:.80} has no result; send it right after, in a tool message")
        results[call.id] = found[call.id]
    return results


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
                raise _invalid(step.place, "the result has no preceding call; send the assistant's message too")
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


def _show(shown: Sequence[_Offered], turns: list[_Turn]) -> None:
    """Inserts the tools before the last answered question, else before the last question."""
    spoken = [turn for turn in turns if turn.role != "system"]
    questions = [index for index, turn in enumerate(spoken) if turn.role == "user"]
    if not questions:
        raise _invalid("messages", "tools require a user message; add at least one")
    answered = [index for index in questions if index + 1 < len(spoken) and spoken[index + 1].role == "assistant"]
    question = spoken[(answered or questions)[-1]]
    question.text = react_question([one.shown for one in shown], question.text)


def _trimmed(text: str) -> str:
    """Trimmed as in the original server: line breaks at the start, white space at the end."""
    return text.lstrip("\n").rstrip()


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")
