"""OpenAI's objects for tools, in requests and responses: `tools`, and the older `functions`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from qwartet.engine.structure import TOOL_NAME
from qwartet.openai_api.object import PassingObject, Text
from qwartet.tokenizer.react_stream import MAX_NAME_CHARS

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 32  # nested objects and lists
MAX_CALLS = 128  # of one message in the conversation


def _checked_parameters(value: Any) -> Any:
    """The value, checked to be serialisable as JSON and not too large."""
    level, depth = [value], 0
    while inner := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            message = f"the parameters are nested deeper than {MAX_SCHEMA_DEPTH} levels; flatten them"
            raise PydanticCustomError("parameters_depth", message)
        level = [value for one in inner for value in (one.values() if isinstance(one, dict) else one)]
    try:
        num_bytes = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:  # NaN, or an unpaired surrogate
        raise PydanticCustomError("parameters_json", "the parameters cannot be written as JSON") from error
    if num_bytes > MAX_SCHEMA_BYTES:
        message = f"the parameters have {num_bytes} bytes; at most {MAX_SCHEMA_BYTES} are allowed"
        raise PydanticCustomError("parameters_size", message)
    if isinstance(value, dict) and value.get("type", "object") != "object":
        raise PydanticCustomError("parameters_kind", "the parameters must be a schema of type object")
    return value


ToolName = Annotated[str, Field(pattern=f"^{TOOL_NAME}$")]
CalledName = Annotated[str, Field(pattern=rf"^[^\n]{{1,{MAX_NAME_CHARS}}}$")]  # models invent names
CallId = Annotated[str, Field(min_length=1, max_length=256)]
Schema = Annotated[dict[str, Any], AfterValidator(_checked_parameters)]
ParameterList = Annotated[list[dict[str, Any]], Field(fail_fast=True), AfterValidator(_checked_parameters)]


# Tools on offer


class ToolFunction(PassingObject):
    """A function; `parameters` is the JSON schema of its arguments, unset if it has none."""

    name: ToolName
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(PassingObject):
    type: Literal["function"]
    function: ToolFunction


class NamedFunction(PassingObject):
    name: ToolName


class NamedTool(PassingObject):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(PassingObject):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class AllowedToolChoice(PassingObject):
    """A subset of the tools; the others are not shown to the model."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class LegacyFunction(PassingObject):
    """A function of the older field; the keys and parameter lists of Qwen's own examples work too."""

    name: ToolName | None = None
    description: Text | None = None
    parameters: Schema | ParameterList | None = None
    name_for_model: ToolName | None = None
    name_for_human: Text | None = None
    description_for_model: Text | None = None

    @model_validator(mode="after")
    def _has_name(self) -> LegacyFunction:
        if self.name is None and self.name_for_model is None:
            raise PydanticCustomError("function_name", "the function has no name; set name")
        return self


ToolChoice = Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedToolChoice, Field(discriminator="type")]
FunctionChoice = Literal["none", "auto"] | NamedFunction


# Calls, in answers and in earlier answers of a conversation


class FunctionCall(PassingObject):
    """A call; its arguments are text as the model wrote it, usually but not necessarily valid JSON."""

    name: CalledName
    arguments: Text


class ToolCall(PassingObject):
    id: CallId
    type: Literal["function"] | None = "function"
    function: FunctionCall
