"""A body of the Responses API as one of the chat API, so that both reach the engine in the same way.

instructions                 a leading system message
message                      a message of its role, its parts joined
function_call, ...           an assistant message; consecutive calls, and the text before them, are one message
function_call_output         a tool message right after its call, wherever it is in the input
reasoning                    reasoning_content of the assistant message that follows it
text.format                  response_format
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwartet.llm import LLM
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.prepare import Prepared, check_text, prepare_chat
from qwartet.openai_api.protocol import (
    AssistantMessage,
    ChatCompletionRequest,
    ChatMessage,
    ResponseFormat,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from qwartet.openai_api.responses_request import (
    LOGPROBS,
    AllowedTools,
    FunctionTool,
    InputCall,
    InputCallOutput,
    InputMessage,
    InputReasoning,
    NamedFunctionTool,
    PlainFormat,
    ResponsesRequest,
    text_of,
)
from qwartet.openai_api.tool_protocol import (
    MAX_CALLS,
    FunctionCall,
    NamedFunction,
    NamedTool,
    Tool,
    ToolCall,
    ToolFunction,
)

_SAME_NAMES = (
    "model", "temperature", "top_p", "parallel_tool_calls", "seed", "stop", "top_k", "min_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "priority", "stream", "chat_template_kwargs",
)  # fmt: skip


@dataclass
class _Turn:
    """A message of the chat, and its field in the body."""

    message: ChatMessage
    place: str


def prepare_response(llm: LLM, body: ResponsesRequest) -> Prepared:
    """Like prepare_chat, with errors that name the fields of this body."""
    turns = _turns(body)
    chat = _chat(body, [turn.message for turn in turns])
    if body.truncation == "auto":
        turns = _that_fit(llm, chat, turns)
        chat = chat.model_copy(update={"messages": [turn.message for turn in turns]})
    try:
        check_text(llm, chat)
        prepared = prepare_chat(llm, chat)
    except ApiError as error:
        raise ApiError(error.status, error.message, param=_field(error.param, turns), code=error.code) from error
    if prepared.params.logprobs is not None and (what := _not_only_text(prepared)) is not None:
        message = (
            f"log-probabilities are not supported with {what} here; leave it out, or use /v1/chat/completions, which "
            "returns those of all tokens"
        )
        raise ApiError(400, message, param="include" if body.include else "top_logprobs", code="invalid_value")
    return prepared


def _not_only_text(prepared: Prepared) -> str | None:
    """What an answer may contain besides its text."""
    tools = prepared.reading.tools
    if tools is not None and tools.has_tools:
        return "tools"
    return "thinking" if prepared.reading.thinking != "answer" else None


def _chat(body: ResponsesRequest, messages: Sequence[ChatMessage]) -> ChatCompletionRequest:
    has_logprobs = body.top_logprobs is not None or LOGPROBS in (body.include or ())
    fields: dict[str, Any] = {name: getattr(body, name) for name in _SAME_NAMES}
    tools = [Tool(type="function", function=_function(tool)) for tool in _offered(body)]
    return ChatCompletionRequest(
        messages=list(messages),
        max_completion_tokens=body.max_output_tokens,
        response_format=_response_format(body),
        tools=tools or None,
        tool_choice=_tool_choice(body),
        logprobs=has_logprobs or None,
        top_logprobs=body.top_logprobs,
        reasoning_effort=body.effort,
        **fields,
    )


def _response_format(body: ResponsesRequest) -> ResponseFormat | None:
    wanted = None if body.text is None else body.text.format
    if wanted is None or isinstance(wanted, PlainFormat):
        return None if wanted is None else ResponseFormat(type=wanted.type)
    return ResponseFormat(type="json_schema", json_schema=wanted)


# Tools


def _offered(body: ResponsesRequest) -> list[FunctionTool]:
    """The tools that may be called."""
    tools, choice = body.tools or [], body.tool_choice
    if not isinstance(choice, AllowedTools):
        return tools
    names = {tool.name for tool in tools}
    for index, allowed in enumerate(choice.tools):
        if allowed.name not in names:
            message = f"tool_choice allows {allowed.name}, but tools has {', '.join(sorted(names)) or 'none'}; add it"
            raise ApiError(400, message, param=f"tool_choice.tools.{index}.name", code="invalid_value")
    allowed_names = {allowed.name for allowed in choice.tools}
    return [tool for tool in tools if tool.name in allowed_names]


def _function(tool: FunctionTool) -> ToolFunction:
    return ToolFunction(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
    )  # fmt: skip


def _tool_choice(body: ResponsesRequest) -> Any:
    choice = body.tool_choice
    if isinstance(choice, AllowedTools):
        return choice.mode
    if isinstance(choice, NamedFunctionTool):
        return NamedTool(type="function", function=NamedFunction(name=choice.name))
    return choice


# Items to messages


def _turns(body: ResponsesRequest) -> list[_Turn]:
    """The messages of the chat; ApiError if a call lacks its output, or an output its call."""
    turns: list[_Turn] = []
    if body.instructions is not None:
        turns.append(_Turn(SystemMessage(role="system", content=body.instructions), "instructions"))
    outputs = _outputs(body)
    open_calls: _Turn | None = None  # an assistant message that the next call belongs to
    results: list[_Turn] = []
    reasoning = ""  # of the assistant message that comes next
    for index, item in enumerate(body.items):
        place = _place(body, index)
        if isinstance(item, InputCall):
            if open_calls is None:
                open_calls = _Turn(_answer("", reasoning), place)
                turns.append(open_calls)
                reasoning = ""
            _add_call(open_calls, item, place)
            results.append(_result(item, outputs, place))
            continue
        if isinstance(item, InputReasoning) and not item.text:
            continue
        turns += results
        results, open_calls = [], None
        if isinstance(item, InputReasoning):
            reasoning += item.text
        elif isinstance(item, InputMessage):
            turns.append(_Turn(_message(item, reasoning), place))
            open_calls, reasoning = turns[-1] if item.role == "assistant" else None, ""
    if outputs:
        call_id, (_, place) = next(iter(outputs.items()))
        message = f"no function_call in the input has the call_id {call_id!r:.80}; send the call too"
        raise ApiError(400, message, param=f"{place}.call_id", code="invalid_value")
    turns += results
    if not turns:
        raise ApiError(400, "the input has no message; send at least one", param="input", code="invalid_value")
    return turns


def _message(item: InputMessage, reasoning: str) -> ChatMessage:
    text = text_of(item.content)
    if item.role == "assistant":
        return _answer(text, reasoning)
    if item.role == "user":
        return UserMessage(role="user", content=text)
    return SystemMessage(role=item.role, content=text)


def _answer(text: str, reasoning: str) -> AssistantMessage:
    return AssistantMessage(role="assistant", content=text, reasoning_content=reasoning or None)


def _outputs(body: ResponsesRequest) -> dict[str, tuple[str, str]]:
    """The text of each output and its field in the body, by call id."""
    found: dict[str, tuple[str, str]] = {}
    for index, item in enumerate(body.items):
        if isinstance(item, InputCallOutput):
            if item.call_id in found:
                message = f"two outputs have the call_id {item.call_id!r:.80}; send one for each call"
                raise ApiError(400, message, param=f"{_place(body, index)}.call_id", code="invalid_value")
            found[item.call_id] = (text_of(item.output), _place(body, index))
    return found


def _place(body: ResponsesRequest, index: int) -> str:
    """The field of the body that the item at this index comes from."""
    if index < body.num_earlier:
        return "previous_response_id"
    return f"input.{index - body.num_earlier}" if isinstance(body.input, list) else "input"


def _add_call(turn: _Turn, item: InputCall, place: str) -> None:
    assert isinstance(turn.message, AssistantMessage)
    calls = turn.message.tool_calls or []
    if len(calls) == MAX_CALLS:
        message = f"more than {MAX_CALLS} consecutive calls; put each output right after its call"
        raise ApiError(400, message, param=place, code="invalid_value")
    function = FunctionCall(name=item.name, arguments=item.arguments)
    turn.message.tool_calls = [*calls, ToolCall(id=item.call_id, type="function", function=function)]


def _result(item: InputCall, outputs: dict[str, tuple[str, str]], place: str) -> _Turn:
    if item.call_id not in outputs:
        message = f"no tool output found for function call {item.call_id!r:.80}; send its function_call_output too"
        raise ApiError(400, message, param=place, code="invalid_value")
    text, where = outputs.pop(item.call_id)
    return _Turn(ToolMessage(role="tool", tool_call_id=item.call_id, content=text), where)


# Truncation and errors


def _that_fit(llm: LLM, chat: ChatCompletionRequest, turns: list[_Turn]) -> list[_Turn]:
    """The conversation without its oldest rounds, as many as must be dropped to make room for prompt and answer.

    A round is a user's message and everything up to the next one; system messages and the last round stay.
    """
    most = llm.engine.max_model_len
    room = most - min(chat.max_completion_tokens or most, most // 4)
    starts = [index for index, turn in enumerate(turns) if isinstance(turn.message, UserMessage)]

    def without(num_rounds: int) -> list[_Turn]:
        kept = starts[num_rounds] if num_rounds else 0
        return [turn for index, turn in enumerate(turns) if index >= kept or isinstance(turn.message, SystemMessage)]

    def fits(num_rounds: int) -> bool:
        body = chat.model_copy(update={"messages": [turn.message for turn in without(num_rounds)]})
        try:
            check_text(llm, body)
            return len(prepare_chat(llm, body).prompts[0]) <= room
        except ApiError as error:
            if error.code == "context_length_exceeded":
                return False
            raise

    low, high = 0, max(len(starts) - 1, 0)  # the fewest rounds to drop so that the rest fits
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return without(low)


def _field(param: str | None, turns: Sequence[_Turn]) -> str | None:
    """The field of the body that a field of the chat comes from."""
    if param is None:
        return None
    if found := re.match(r"messages\.(\d+)", param):
        return turns[int(found[1])].place
    if param == "messages":
        return "input"
    return "text.format" if param == "response_format" else re.sub(r"^(tools\.\d+)\.function", r"\1", param)
