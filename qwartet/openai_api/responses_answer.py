"""A chat's answer as a response of the Responses API: the complete object, or the events of its stream.

response.created, response.in_progress
response.output_item.added                    reasoning with one part, from models that think
    response.content_part.added, response.reasoning_text.delta ..., response.reasoning_text.done, ..part.done
response.output_item.done
response.output_item.added                    a message with one part
    response.content_part.added, response.output_text.delta ..., response.output_text.done, response.content_part.done
response.output_item.done
response.output_item.added                    a function call
    response.function_call_arguments.delta ..., response.function_call_arguments.done
response.output_item.done
response.completed | response.incomplete | response.failed
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import JsonValue

from qwartet.engine.async_engine import StreamOutput
from qwartet.llm import LLM
from qwartet.openai_api.answer import usage_of
from qwartet.openai_api.answer_objects import (
    AnyUsage,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ThinkingUsage,
)
from qwartet.openai_api.chunks import ChatChunks
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.object import ApiObject
from qwartet.openai_api.prepare import Prepared
from qwartet.openai_api.responses_request import ResponsesRequest

_RETURNED = (
    "instructions", "max_output_tokens", "max_tool_calls", "previous_response_id", "prompt_cache_key",
    "safety_identifier", "user",
)  # fmt: skip
Status = Literal["in_progress", "completed", "incomplete", "failed"]

# Every field of these objects is always set, so that events, which omit unset fields, contain all of them.


class OutputText(ApiObject):
    type: Literal["output_text"]
    text: str
    annotations: list[JsonValue]
    logprobs: list[ChatLogprob]


class OutputMessage(ApiObject):
    """The text of an answer."""

    id: str
    type: Literal["message"]
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningText(ApiObject):
    type: Literal["reasoning_text"]
    text: str


class OutputReasoning(ApiObject):
    """What the model thought before its answer."""

    id: str
    type: Literal["reasoning"]
    status: Status
    summary: list[JsonValue]
    content: list[ReasoningText]
    encrypted_content: None


class OutputCall(ApiObject):
    """A function call; `arguments` is what the model wrote, usually JSON."""

    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem = OutputReasoning | OutputMessage | OutputCall


class InputTokensDetails(ApiObject):
    cached_tokens: int  # computed by earlier requests
    cache_write_tokens: int


class OutputTokensDetails(ApiObject):
    reasoning_tokens: int


class ResponseUsage(ApiObject):
    """Tokens used by a request, stop tokens included."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(ApiObject):
    reason: Literal["max_output_tokens"]


class ResponseError(ApiObject):
    code: str
    message: str


class ResponseObject(ApiObject):
    """The answer of POST /v1/responses."""

    id: str
    object: Literal["response"]
    created_at: int  # seconds since 1970
    completed_at: int | None
    status: Status
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None
    store: bool
    background: Literal[False]
    # As requested:
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    previous_response_id: str | None
    parallel_tool_calls: bool
    prompt_cache_key: str | None
    reasoning: dict[str, JsonValue]
    safety_identifier: str | None
    service_tier: Literal["default"]
    temperature: float
    text: dict[str, JsonValue]
    tool_choice: JsonValue
    tools: list[dict[str, JsonValue]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    user: str | None


class DeletedResponse(ApiObject):
    """The answer of DELETE /v1/responses/ID."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ResponseEvent(ApiObject):
    """An event of a response stream; unset fields are omitted."""

    type: str
    sequence_number: int
    response: ResponseObject | None = None
    output_index: int | None = None
    item: OutputItem | None = None
    item_id: str | None = None
    content_index: int | None = None
    part: OutputText | ReasoningText | None = None
    delta: str | None = None
    text: str | None = None
    name: str | None = None
    arguments: str | None = None
    logprobs: list[ChatLogprob] | None = None


def response_object(
    body: ResponsesRequest, llm: LLM, model: str, prepared: Prepared, output: StreamOutput
) -> ResponseObject:
    """The response for a complete output: what its stream ends with."""
    events = ResponseEvents(body, llm, model, prepared)
    events.of(output.index, output)
    events.ending([[output]])
    return events.response


class ResponseEvents:
    """The events of one response, made from the chunks of a chat."""

    def __init__(self, body: ResponsesRequest, llm: LLM, model: str, prepared: Prepared) -> None:
        self._chunks, self._llm = ChatChunks(llm, model, prepared, None), llm
        self._prepared, self.response = prepared, _begun(body, llm, prepared, model)
        self._output: list[OutputItem] = []
        self._logprobs: list[ChatLogprob] = []  # of tokens whose text is held back so far
        self._item: OutputItem | None = None  # the one in progress
        self._is_cut = False
        self._num_events = 0

    def beginning(self) -> list[ResponseEvent]:
        """The events before the first text."""
        return [self._event(f"response.{name}", response=self.response) for name in ("created", "in_progress")]

    def of(self, index: int, output: StreamOutput) -> list[ResponseEvent]:
        """The events of what was added to the text."""
        events: list[ResponseEvent] = []
        for chunk in self._chunks.of(index, output):
            for choice in chunk.choices:
                events += self._added(choice.delta, choice.logprobs)
                if choice.finish_reason is not None:
                    self._is_cut = choice.finish_reason == "length"
                    if self._item is None:
                        events += self._open(_message("", [], "in_progress"))
                    events += self._close(_status(self._is_cut))
        return events

    def ending(self, outputs: Sequence[Sequence[StreamOutput]]) -> list[ResponseEvent]:
        """The last event, with the complete response."""
        usage = usage_of(self._llm.tokenizer, outputs, self._prepared)
        self.response = _ended(self.response, self._output, usage, is_cut=self._is_cut)
        return [self._event(f"response.{self.response.status}", response=self.response)]

    def failure(self, error: ApiError) -> ResponseEvent:
        """The last event of a stream that breaks off, with the output so far."""
        output = self._output if self._item is None else [*self._output, _with_status(self._item, "incomplete")]
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        told = ResponseError(code=code, message=error.to_object().error.message)
        failed = {"status": "failed", "error": told, "output": output}
        return self._event("response.failed", response=self.response.model_copy(update=failed))

    def _added(self, delta: ChatDelta, logprobs: ChatLogprobs | None) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        self._logprobs += [] if logprobs is None else logprobs.content
        if delta.reasoning_content:
            if self._item is None:
                events += self._open(_reasoning("", "in_progress"))
            assert isinstance(self._item, OutputReasoning)
            self._item.content[0].text += delta.reasoning_content
            events.append(self._part_event("response.reasoning_text.delta", delta=delta.reasoning_content))
        if delta.content:
            if self._item is not None and not isinstance(self._item, OutputMessage):
                events += self._close("completed")
            if self._item is None:
                events += self._open(_message("", [], "in_progress"))
            assert isinstance(self._item, OutputMessage)
            part = self._item.content[0]
            text = delta.content
            if not part.text and any(isinstance(item, OutputCall) for item in self._output):
                text = text.lstrip("\n")  # it ends the line of an earlier message
            part.text += text
            new, self._logprobs = self._logprobs, []
            part.logprobs += new
            events.append(self._part_event("response.output_text.delta", delta=text, logprobs=new))
        for call in delta.tool_calls or ():
            if call.id is not None:
                events += [] if self._item is None else self._close("completed")
                events += self._open(_call(call.id, call.function.name or "", "", "in_progress"))
            assert isinstance(self._item, OutputCall)
            if call.function.arguments:
                self._item.arguments += call.function.arguments
                name = "response.function_call_arguments.delta"
                events.append(self._item_event(name, delta=call.function.arguments))
        return events

    def _open(self, item: OutputItem) -> list[ResponseEvent]:
        self._item = item
        without_parts = item.model_copy(deep=True, update=None if isinstance(item, OutputCall) else {"content": []})
        events = [self._event("response.output_item.added", output_index=len(self._output), item=without_parts)]
        if not isinstance(item, OutputCall):
            part = item.content[0].model_copy(deep=True)
            events.append(self._part_event("response.content_part.added", part=part))
        return events

    def _close(self, status: Status) -> list[ResponseEvent]:
        item = self._item
        assert item is not None
        if isinstance(item, OutputMessage):
            part = item.content[0]
            part.logprobs += self._logprobs
            events = [
                self._part_event("response.output_text.done", text=part.text, logprobs=part.logprobs),
                self._part_event("response.content_part.done", part=part),
            ]
        elif isinstance(item, OutputReasoning):
            thought = item.content[0]
            events = [
                self._part_event("response.reasoning_text.done", text=thought.text),
                self._part_event("response.content_part.done", part=thought),
            ]
        else:
            name = "response.function_call_arguments.done"
            events = [self._item_event(name, name=item.name, arguments=item.arguments)]
        ended = _with_status(item, status)
        events.append(self._event("response.output_item.done", output_index=len(self._output), item=ended))
        self._output.append(ended)
        self._item, self._logprobs = None, []
        return events

    def _part_event(self, type_: str, **fields: Any) -> ResponseEvent:
        return self._item_event(type_, content_index=0, **fields)

    def _item_event(self, type_: str, **fields: Any) -> ResponseEvent:
        assert self._item is not None
        return self._event(type_, item_id=self._item.id, output_index=len(self._output), **fields)

    def _event(self, type_: str, **fields: Any) -> ResponseEvent:
        self._num_events += 1
        return ResponseEvent(type=type_, sequence_number=self._num_events - 1, **fields)


def _begun(body: ResponsesRequest, llm: LLM, prepared: Prepared, model: str) -> ResponseObject:
    """The response before any output."""
    asked = _writable(body.model_dump(by_alias=True, include={*_RETURNED, "metadata", "text", "tool_choice", "tools"}))
    choice = asked["tool_choice"]
    effort = None if llm.answer_form.thinking == "never" else _writable(body.effort)
    return ResponseObject(
        id=f"resp_{secrets.token_hex(24)}",
        object="response",
        created_at=int(time.time()),
        completed_at=None,
        status="in_progress",
        error=None,
        incomplete_details=None,
        model=model,
        output=[],
        usage=None,
        store=body.is_stored,
        background=False,
        metadata=asked["metadata"] or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning={"effort": effort, "summary": None},
        service_tier="default",
        temperature=prepared.params.temperature,
        text={"format": (asked["text"] or {}).get("format") or {"type": "text"}},
        tool_choice="auto" if choice is None else choice,
        tools=asked["tools"] or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=prepared.params.top_p,
        truncation=body.truncation or "disabled",
        **{name: asked[name] for name in _RETURNED},
    )


def _writable(value: Any) -> Any:
    """A value of a request with question marks for unpaired surrogates, which cannot be encoded in a response."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _ended(begun: ResponseObject, output: Sequence[OutputItem], usage: AnyUsage, *, is_cut: bool) -> ResponseObject:
    details = InputTokensDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens, cache_write_tokens=0)
    update = {
        "status": _status(is_cut),
        "completed_at": None if is_cut else int(time.time()),
        "incomplete_details": IncompleteDetails(reason="max_output_tokens") if is_cut else None,
        "output": list(output),
        "usage": ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=details,
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=_reasoning_tokens(usage)),
            total_tokens=usage.total_tokens,
        ),
    }
    return begun.model_copy(update=update)


def _reasoning_tokens(usage: AnyUsage) -> int:
    return usage.completion_tokens_details.reasoning_tokens if isinstance(usage, ThinkingUsage) else 0


def _status(is_cut: bool) -> Literal["completed", "incomplete"]:
    return "incomplete" if is_cut else "completed"


def _message(text: str, logprobs: list[ChatLogprob], status: Status) -> OutputMessage:
    part = OutputText(type="output_text", text=text, annotations=[], logprobs=logprobs)
    return OutputMessage(id=_new_id("msg"), type="message", status=status, role="assistant", content=[part])


def _reasoning(text: str, status: Status) -> OutputReasoning:
    part = ReasoningText(type="reasoning_text", text=text)
    return OutputReasoning(
        id=_new_id("rs"), type="reasoning", status=status, summary=[], content=[part], encrypted_content=None
    )  # fmt: skip


def _call(call_id: str, name: str, arguments: str, status: Status) -> OutputCall:
    return OutputCall(
        id=_new_id("fc"), type="function_call", status=status, call_id=call_id, name=name, arguments=arguments
    )  # fmt: skip


def _with_status(item: OutputItem, status: Status) -> OutputItem:
    return item.model_copy(update={"status": status})


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"
