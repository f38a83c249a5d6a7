"""OpenAI's request objects, as far as they are honoured here; any other field is refused.

They also take vLLM's names for what OpenAI has no field for. Bounds of sampling settings are SamplingParams' own.
`null` means that a field is not given, as with OpenAI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from qwartet.server.api_object import ApiObject
from qwartet.server.tool_protocol import (
    MAX_CALLS,
    MAX_TOOLS,
    CalledName,
    CallId,
    FunctionCall,
    FunctionChoice,
    LegacyFunction,
    Tool,
    ToolCall,
    ToolChoice,
)

MAX_STOPS = 16  # OpenAI has 4
MAX_STOP_CHARS = 256
MAX_STOP_TOKEN_IDS = 1024
MAX_BIASES = 1024
MAX_MESSAGES = 2048
MAX_PROMPTS = 128
MAX_TOP_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5

StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
# A list is left at its first wrong item: a million errors would take a gigabyte and minutes.
TokenIds = Annotated[list[int], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]


class StreamOptions(ApiObject):
    """How a stream is to be."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchemaFormat(ApiObject):
    """A schema with a name. It is enforced whether it is strict or not."""

    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(ApiObject):
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(ApiObject):
    """The same in vLLM's names; exactly one of them."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Texts | None = None


class HarmlessFields(ApiObject):
    """Fields that are accepted and have no effect: labels and wishes that change no answer."""

    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


class SamplingFields(HarmlessFields):
    """What both endpoints take; what is not given comes from the checkpoint's generation_config.json."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_BIASES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    # vLLM's:
    top_k: int | None = None  # 0 and -1 keep all
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[TokenIds, Field(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    priority: int | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None
    skip_special_tokens: Literal[True] | None = None
    include_stop_str_in_output: Literal[False] | None = None


class TextPart(ApiObject):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(fail_fast=True)]


class ContentMessage(ApiObject):
    """A turn that has a text."""

    content: Content

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        return _joined(self.content)


class SystemMessage(ContentMessage):
    role: Literal["system", "developer"]


class UserMessage(ContentMessage):
    role: Literal["user"]


class AssistantMessage(ApiObject):
    """An answer. The fields that must be null are those of one that is sent back as it came."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=MAX_CALLS)] | None = None
    function_call: FunctionCall | None = None
    refusal: None = None
    audio: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> AssistantMessage:
        if self.tool_calls is not None and self.function_call is not None:
            raise PydanticCustomError("two_calls", "tool_calls and function_call; give one of them")
        if self.content is None and self.tool_calls is None and self.function_call is None:
            raise PydanticCustomError("no_content", "content is missing, and there is no call; give one of them")
        return self

    @property
    def text(self) -> str:
        """The content, its parts joined; empty where there is none."""
        return "" if self.content is None else _joined(self.content)


class ToolMessage(ContentMessage):
    """The result of a tool call."""

    role: Literal["tool"]
    tool_call_id: CallId


class FunctionMessage(ApiObject):
    """The result of a function call."""

    role: Literal["function"]
    name: CalledName
    content: Content | None

    @property
    def text(self) -> str:
        return "" if self.content is None else _joined(self.content)


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage, Field(discriminator="role")
]


def _joined(content: Content) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _num_chars(messages: Sequence[ChatMessage]) -> int:
    """Of contents and of what functions were called with."""
    asked = [message for message in messages if isinstance(message, AssistantMessage)]
    calls = [call.function for message in asked for call in message.tool_calls or ()]
    calls += [message.function_call for message in asked if message.function_call is not None]
    return sum(len(message.text) for message in messages) + sum(len(call.arguments) for call in calls)


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatCompletionRequest(SamplingFields):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: Literal[False] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None  # either way, an answer has at most one call
    functions: Annotated[list[LegacyFunction], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)] | None = None
    function_call: FunctionChoice | None = None

    @property
    def num_chars(self) -> int:
        """Of all texts that the prompt is made of; tools are shown in it as JSON."""
        tools = [*(self.tools or ()), *(self.functions or ())]
        return _num_chars(self.messages) + sum(len(tool.model_dump_json()) for tool in tools)


class CompletionRequest(SamplingFields):
    """The body of POST /v1/completions; with `echo`, max_tokens may be 0: the prompt alone is told of."""

    prompt: (
        str
        | Annotated[Texts, Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[list[Annotated[TokenIds, Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = None
    best_of: int | None = None  # only as n
    suffix: Literal[""] | None = None

    @property
    def num_chars(self) -> int:
        """Of the longest prompt, where it is text."""
        prompts = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        return max((len(prompt) for prompt in prompts if isinstance(prompt, str)), default=0)


class TokenizeRequest(ApiObject):
    """The body of POST /tokenize: a prompt, or the messages of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None

    @property
    def num_chars(self) -> int:
        """Of all texts that it is made of."""
        return len(self.prompt or "") + _num_chars(self.messages or ())


class DetokenizeRequest(ApiObject):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: TokenIds
