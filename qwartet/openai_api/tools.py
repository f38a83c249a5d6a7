"""A chat with tools: what the model may call and is shown, in the form of its family, and how its answer is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwartet.engine.structure import ToolCalls
from qwartet.openai_api.conversation import invalid, takes_part
from qwartet.openai_api.protocol import ChatCompletionRequest
from qwartet.openai_api.react_layout import react_chat
from qwartet.openai_api.template_layout import template_messages
from qwartet.openai_api.tool_protocol import AllowedToolChoice, LegacyFunction, NamedTool, ToolFunction
from qwartet.tokenizer.answer_form import ToolForm
from qwartet.tokenizer.react_stream import ReactPart
from qwartet.tokenizer.templates.conversation import GivenMessage

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
# A schema with one of these keys states for itself which properties it allows.
_OPEN_KEYS = frozenset(("additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"))


@dataclass(frozen=True)
class ToolChat:
    """A chat with tools, and how to parse its answer."""

    messages: list[GivenMessage]
    is_legacy: bool  # whether calls are returned as function_call
    calls: ToolCalls | None  # the constraint on calls, if there is one
    offered: ToolCalls | None  # the tools that may be called; None if none are shown
    has_tools: bool  # whether tools are shown and can be called
    form: Literal["react", "tagged"] = "react"
    answer_start: str = ""  # the beginning of the assistant's turn, in ReAct if the last message is a result
    begins_in: ReactPart = "start"  # in ReAct: the part in which the answer begins
    shown: tuple[dict[str, Any], ...] = ()  # tools for the chat template
    takes_several: bool = False  # whether more than one call is passed on
    tells_thought: bool = True  # the text before a call; false if clients expect content of a certain format


@dataclass(frozen=True)
class _Offered:
    """A tool that may be shown to the model."""

    name: str
    human_name: str
    description: str | None
    parameters: Any
    is_strict: bool = False

    @property
    def for_react(self) -> dict[str, Any]:
        """The tool in the notation of react.py."""
        return {
            "name_for_model": self.name,
            "name_for_human": self.human_name,
            "description_for_model": self.description or "",
            "parameters": NO_PARAMETERS if self.parameters is None else self.parameters,
        }

    @property
    def for_template(self) -> dict[str, Any]:
        """The tool as chat templates show it."""
        parameters = NO_PARAMETERS if self.parameters is None else self.parameters
        described = {} if self.description is None else {"description": self.description}
        return {"type": "function", "function": {"name": self.name, **described, "parameters": parameters}}

    @property
    def schema(self) -> dict[str, Any]:
        """The schema that arguments must match: the tool's own, without unlisted properties unless it allows them."""
        if isinstance(self.parameters, list):  # Qwen's own notation, which is not a JSON schema
            return {"type": "object"}
        schema = NO_PARAMETERS if self.parameters is None else {"type": "object"} | self.parameters
        is_closed = "properties" in schema and not _OPEN_KEYS & schema.keys()
        return schema | {"additionalProperties": False} if is_closed else schema


@dataclass(frozen=True)
class _Choice:
    """What a request says about the tools that are called."""

    allowed: Sequence[str]
    required: Sequence[str] = ()  # one of these must be called; empty if the model chooses
    is_named: bool = False  # it is this one


def tool_chat(body: ChatCompletionRequest, form: ToolForm = "react") -> ToolChat | None:
    """The chat in a form; None if it has no callable tools, no calls and no results.

    ApiError if a choice names an unknown tool, a call lacks its result, a result lacks its call, the order of messages
    is wrong, or the model has no tools.
    """
    all_tools = _offered(body)
    choice = _choice(body, [one.name for one in all_tools])
    shown = [one for one in all_tools if one.name in choice.allowed]
    if not shown and not any(map(takes_part, body.messages)):
        return None
    if form == "none":
        field = "messages" if not shown else "tools" if body.functions is None else "functions"
        raise invalid(field, "this model's chat template has no tools; leave them out, or use a model that has")
    if form == "react":
        return _react_chat(body, shown, choice)
    takes_several = body.functions is None and body.parallel_tool_calls is not False and not choice.is_named
    schemas = {one.name: one.schema if one.is_strict else None for one in shown}
    offered = ToolCalls(schemas, is_required=False, form="tagged", takes_several=takes_several) if shown else None
    calls = _constraint(shown, choice, offered)
    if calls is None and not takes_several:
        calls = offered  # ends the answer after its first call
    return ToolChat(
        messages=list(template_messages(body.messages)),
        is_legacy=body.functions is not None,
        calls=calls,
        offered=offered,
        has_tools=bool(shown),
        form="tagged",
        shown=tuple(one.for_template for one in shown),
        takes_several=takes_several,
    )


def _react_chat(body: ChatCompletionRequest, shown: Sequence[_Offered], choice: _Choice) -> ToolChat:
    if body.add_generation_prompt is False:
        message = "add_generation_prompt: false is not supported with tools; leave it out"
        raise invalid("add_generation_prompt", message)
    laid_out = react_chat(body.messages, [one.for_react for one in shown])
    schemas = {one.name: one.schema if one.is_strict else None for one in shown}
    begins_in_thought = laid_out.begins_in == "thought"
    offered = ToolCalls(schemas, is_required=False, begins_in_thought=begins_in_thought) if shown else None
    return ToolChat(
        messages=list(laid_out.messages),
        is_legacy=body.functions is not None,
        calls=_constraint(shown, choice, offered),
        offered=offered,
        has_tools=bool(shown),
        answer_start=laid_out.answer_start,
        begins_in=laid_out.begins_in,
    )


def _constraint(shown: Sequence[_Offered], choice: _Choice, offered: ToolCalls | None) -> ToolCalls | None:
    """The calls that must be made, or that must match a schema if they are made; None if the model is free."""
    if offered is None:
        return None
    if choice.required:
        schemas = {one.name: one.schema for one in shown if one.name in choice.required}
        return replace(offered, schemas=schemas, is_required=True)
    return offered if any(one.is_strict for one in shown) else None


# Tools on offer


def _offered(body: ChatCompletionRequest) -> list[_Offered]:
    if body.tools is not None and body.functions is not None:
        raise invalid("functions", "tools and functions are mutually exclusive; set only one")
    offered = [_of_function(one) for one in body.functions or ()] + [_of_tool(one.function) for one in body.tools or ()]
    seen: set[str] = set()
    for index, one in enumerate(offered):
        if one.name in seen:
            place = f"{'tools' if body.functions is None else 'functions'}.{index}"
            raise invalid(place, f"duplicate name {one.name}; names must be unique")
        seen.add(one.name)
    return offered


def _choice(body: ChatCompletionRequest, names: Sequence[str]) -> _Choice:
    for field, owner, other in (("tool_choice", "tools", "functions"), ("function_call", "functions", "tools")):
        if getattr(body, field) is not None and getattr(body, other) is not None:
            raise invalid(field, f"{field} belongs to {owner}, but the request has {other}; remove one of them")
        if getattr(body, field) not in (None, "none", "auto") and getattr(body, owner) is None:
            raise invalid(field, f"{field} asks for a call, but there are no {owner}; add some")
    field = "function_call" if body.tool_choice is None else "tool_choice"
    choice = body.function_call if body.tool_choice is None else body.tool_choice
    if choice is None or isinstance(choice, str):
        return _Choice([] if choice == "none" else names, names if choice == "required" else ())
    if isinstance(choice, AllowedToolChoice):
        chosen = [tool.function.name for tool in choice.allowed_tools.tools]
    else:
        chosen = [choice.function.name if isinstance(choice, NamedTool) else choice.name]
    unknown = next((name for name in chosen if name not in names), None)
    if unknown is not None:
        raise invalid(field, f"{field} names {unknown}, which does not exist; available: {', '.join(names):.200}")
    if isinstance(choice, AllowedToolChoice):
        return _Choice(chosen, chosen if choice.allowed_tools.mode == "required" else ())
    return _Choice(names, chosen, is_named=True)


def _of_tool(function: ToolFunction) -> _Offered:
    return _Offered(
        function.name, function.name, function.description, function.parameters, bool(function.strict)
    )  # fmt: skip


def _of_function(function: LegacyFunction) -> _Offered:
    name = function.name_for_model or function.name or ""
    human = function.name_for_human if function.name_for_human is not None else function.name or name
    description = function.description_for_model
    return _Offered(name, human, function.description if description is None else description, function.parameters)
