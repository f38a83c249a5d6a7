"""The supported part of the body of POST /v1/responses: text and function tools.

As everywhere, undeclared fields are rejected at the top level and ignored inside items and tools.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PrivateAttr
from pydantic_core import PydanticCustomError

from qwartet.openai_api.object import PassingObject, RequestObject, Text
from qwartet.openai_api.protocol import (
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOP_LOGPROBS,
    NO_EFFECT,
    ChatTemplateKwargs,
    GenerateRequest,
    JsonSchemaFormat,
    RefusalPart,
    RequestBody,
    StopText,
)
from qwartet.openai_api.tool_protocol import MAX_TOOLS, CalledName, CallId, ToolFunction, ToolName

# Input


class TextPart(PassingObject):
    """A piece of text from a user or an earlier answer."""

    type: Literal["input_text", "output_text", "text"]
    text: Text


Part = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
TextOrParts = Text | Annotated[list[Part], Field(fail_fast=True)]


class InputMessage(PassingObject):
    """A turn of the conversation; `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: TextOrParts


class InputCall(PassingObject):
    """A call made by an earlier answer."""

    type: Literal["function_call"]
    call_id: CallId
    name: CalledName
    arguments: Text


class InputCallOutput(PassingObject):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: TextOrParts


class ReasoningText(PassingObject):
    """A piece of reasoning."""

    type: Literal["reasoning_text"]
    text: Text


class InputReasoning(PassingObject):
    """An earlier answer's reasoning; the chat template of the model decides whether it is kept."""

    type: Literal["reasoning"]
    content: Annotated[list[ReasoningText], Field(fail_fast=True)] | None = None

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(part.text for part in self.content or ())


class InputReference(PassingObject):
    """An item of a stored response; `type` may be left out."""

    type: Literal["item_reference"] = "item_reference"
    id: Annotated[str, Field(min_length=1)]


def _with_type(item: Any) -> Any:
    """An item with its type, which messages and references may leave out."""
    if not isinstance(item, dict) or item.get("type") is not None:
        return item
    kind = "message" if "role" in item else "item_reference" if "id" in item else None
    return item if kind is None else {**item, "type": kind}


AnyItem = InputMessage | InputCall | InputCallOutput | InputReasoning | InputReference
InputItem = Annotated[Annotated[AnyItem, Field(discriminator="type")], BeforeValidator(_with_type)]


# Tools and formats


def _of_types(*supported: str) -> BeforeValidator:
    """Rejects objects of other types for their type, whatever else is wrong with them."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and "type" in value and value["type"] not in supported:
            told = {"kind": repr(value["type"])[:40], "supported": " or ".join(supported)}
            raise PydanticCustomError("object_type", "the type {kind} is not supported; use {supported}", told)
        return value

    return BeforeValidator(check)


class FunctionTool(ToolFunction):
    """A function that the model may call."""

    type: Literal["function"]


ResponseTool = Annotated[FunctionTool, _of_types("function")]


class NamedFunctionTool(PassingObject):
    """The function that must be called."""

    type: Literal["function"]
    name: ToolName


class AllowedTools(PassingObject):
    """The tools that may be called, or one of which must be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunctionTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | Annotated[NamedFunctionTool | AllowedTools, Field(discriminator="type")],
    _of_types("function", "allowed_tools"),
]


class PlainFormat(RequestObject):
    type: Literal["text", "json_object"]


class SchemaFormat(JsonSchemaFormat):
    type: Literal["json_schema"]


class TextSettings(RequestObject):
    """The required format of the text."""

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: str | None = NO_EFFECT


class ReasoningSettings(PassingObject):
    """Whether the model thinks first; summaries and the like are ignored."""

    effort: str | None = None
    """`none`: without thinking; anything else: with it. Ignored by models that never think."""


class ResponseStreamOptions(RequestObject):
    include_obfuscation: bool | None = NO_EFFECT


def _null(reason: str) -> BeforeValidator:
    """Rejects a field that requests an unsupported feature."""

    def check(value: Any) -> Any:
        if value is not None and value is not False:
            raise PydanticCustomError("unsupported", reason)
        return value

    return BeforeValidator(check)


LOGPROBS = "message.output_text.logprobs"
Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class ResponsesRequest(RequestBody):
    """The body of POST /v1/responses."""

    ABSENT_IF_EMPTY: ClassVar[frozenset[str]] = frozenset(("context_management", "include", "stop", "tools"))
    input: Text | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    """A question, or the items of a conversation: messages, function calls and their outputs."""
    instructions: Text | None = None
    """A system message before the input."""
    max_output_tokens: int | None = None
    """Defaults to max_new_tokens of generation_config.json, else to the room left in the context."""
    temperature: float | None = None
    """From 0 (greedy) to 100."""
    top_p: float | None = None
    """From 0 to 1: samples from the most probable tokens that together have this probability."""
    stream: bool | None = None
    """Server-sent events; the last one is response.completed, response.incomplete or response.failed."""
    stream_options: ResponseStreamOptions | None = None
    text: TextSettings | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """False: an answer has at most one call, as it always has with first-generation Qwen."""
    include: Annotated[list[Included], Field(fail_fast=True)] | None = None
    """`message.output_text.logprobs`; the others concern unsupported tools and encryption and are ignored."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """Log-probabilities of the text's tokens, and of this many alternatives per token."""
    truncation: Literal["auto", "disabled"] | None = None
    """auto: drops the oldest rounds until the prompt leaves room for the answer, at most a quarter of the context."""
    store: bool | None = None
    """False: the response is not stored. Stored ones stay in memory until newer ones need room (`--response-store`)."""
    previous_response_id: str | None = None
    """A stored response, whose input and output precede this input."""
    conversation: Annotated[None, _null("conversations are not stored; use previous_response_id")] = None
    background: Annotated[Literal[False] | None, _null("background mode is unsupported; leave it out and wait")] = None
    prompt: Annotated[None, _null("stored prompts are not supported; send the text in input")] = None
    context_management: Annotated[list[Any], Field(max_length=0)] | None = None
    metadata: dict[str, str] | None = None
    """Returned unchanged."""
    # vLLM's fields, where OpenAI has none:
    seed: int | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    priority: int | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    reasoning: ReasoningSettings | None = None
    # Labels and hints that do not change answers:
    max_tool_calls: int | None = NO_EFFECT
    user: str | None = NO_EFFECT
    safety_identifier: str | None = NO_EFFECT
    prompt_cache_key: str | None = NO_EFFECT
    prompt_cache_retention: str | None = NO_EFFECT
    prompt_cache_options: dict[str, Any] | None = NO_EFFECT
    service_tier: str | None = NO_EFFECT

    # Not part of the body; the response store sets them.
    _earlier: list[AnyItem] = PrivateAttr(default_factory=list)
    _is_stored: bool = PrivateAttr(default=False)

    def refer(self, earlier: list[AnyItem], own: list[AnyItem] | None, *, is_stored: bool) -> None:
        """Sets the items of the continued response, the input with references resolved, and whether it is stored."""
        self._earlier, self._is_stored = earlier, is_stored
        self.input = self.input if own is None else own

    @property
    def effort(self) -> str | None:
        """How much the model is asked to think."""
        return None if self.reasoning is None else self.reasoning.effort

    @property
    def is_stored(self) -> bool:
        return self._is_stored

    @property
    def num_earlier(self) -> int:
        """The number of items from the continued response."""
        return len(self._earlier)

    @property
    def items(self) -> list[AnyItem]:
        """The complete conversation: that of the continued response, then the input."""
        own = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        return [*self._earlier, *own]


def text_of(content: TextOrParts) -> str:
    """The text of a content, its parts joined."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


AnswerRequest = GenerateRequest | ResponsesRequest
