"""OpenAI's request objects, and vLLM's names for what OpenAI has no field for.

A field is honoured, has no effect and says so (NO_EFFECT), or is refused by its name. Refused are the values that would
change the answer, and at the top level every undeclared field; inside messages and tools object.py passes those over.
Bounds of sampling settings are SamplingParams' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from qwartet.openai_api.object import PassingObject, RequestObject, Text
from qwartet.openai_api.tool_protocol import (
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

NO_EFFECT_WORDS = "No effect."
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
PromptTexts = Annotated[list[Text], Field(fail_fast=True)]


NO_EFFECT = Field(None, description=NO_EFFECT_WORDS)


class StreamOptions(RequestObject):
    """How a stream is to be."""

    include_usage: bool | None = None
    """A last chunk with no choices says what it all took."""
    continuous_usage_stats: bool | None = None
    """Every chunk says what it took so far."""
    include_obfuscation: bool | None = NO_EFFECT


class JsonSchemaFormat(RequestObject):
    """A schema with a name. It is enforced whether it is strict or not."""

    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(RequestObject):
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(RequestObject):
    """The same in vLLM's names; exactly one of them."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Texts | None = None


class RequestBody(RequestObject):
    """What every request takes."""

    model: str | None = None
    """A name of the model; the first if left out."""


class HarmlessFields(RequestBody):
    """Fields that are accepted and have no effect: labels, and wishes that change no answer."""

    user: str | None = NO_EFFECT
    metadata: dict[str, str] | None = NO_EFFECT
    store: bool | None = NO_EFFECT
    service_tier: str | None = NO_EFFECT
    reasoning_effort: str | None = NO_EFFECT
    verbosity: str | None = NO_EFFECT
    prompt_cache_key: str | None = NO_EFFECT
    prompt_cache_options: dict[str, Any] | None = NO_EFFECT
    prompt_cache_retention: str | None = NO_EFFECT
    safety_identifier: str | None = NO_EFFECT
    modalities: list[Literal["text"]] | None = NO_EFFECT
    prediction: dict[str, Any] | None = NO_EFFECT
    # vLLM's, with the values by which they change nothing:
    add_special_tokens: bool | None = NO_EFFECT
    guided_decoding_backend: str | None = NO_EFFECT
    include_reasoning: bool | None = NO_EFFECT
    length_penalty: Annotated[float, Field(ge=1, le=1)] | None = NO_EFFECT
    return_token_ids: Literal[False] | None = NO_EFFECT
    return_tokens_as_token_ids: Literal[False] | None = NO_EFFECT
    spaces_between_special_tokens: bool | None = NO_EFFECT
    use_beam_search: Literal[False] | None = NO_EFFECT


class SamplingFields(HarmlessFields):
    """What both endpoints take; what is not given comes from the checkpoint's generation_config.json."""

    ABSENT_IF_EMPTY: ClassVar[frozenset[str]] = frozenset(
        ("functions", "modalities", "stop", "stop_token_ids", "tools")
    )
    max_tokens: int | None = None
    """Of each completion; if left out max_new_tokens of generation_config.json, or what the context holds."""
    temperature: float | None = None
    """From 0, which takes the most probable token, to 100."""
    top_p: float | None = None
    """From 0 to 1: draws among the most probable tokens that together have this probability."""
    n: int | None = None
    """Completions; they share the prompt. `--max-completions` is the most."""
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    """Texts that end a completion and are not part of it."""
    seed: int | None = None
    """At least 0; the same seed gives the same text, whatever else is served."""
    presence_penalty: float | None = None
    """From -100 to 100; taken off the logits of tokens that the completion has."""
    frequency_penalty: float | None = None
    """The same, for each time that it has them."""
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_BIASES)] | None = None
    """Token ids to numbers from -100 to 100, which are added to their logits."""
    stream: bool | None = None
    """Server-sent events as the text grows; the last is [DONE]."""
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    """What the text has to be; with tools, of an answer that calls none."""
    # vLLM's:
    top_k: int | None = None
    """Draws among so many most probable tokens; 0 and -1 keep all."""
    min_p: float | None = None
    """From 0 to 1: leaves out tokens less probable than this part of the most probable one."""
    repetition_penalty: float | None = None
    """From 0.01 to 100; divides positive logits of tokens that were there before, multiplies negative ones."""
    min_tokens: int | None = None
    """No stop token comes before so many."""
    ignore_eos: bool | None = None
    """Goes on after the model's own stop tokens."""
    stop_token_ids: Annotated[TokenIds, Field(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    """Besides the model's own stop tokens."""
    priority: int | None = None
    """Smaller numbers are served first; 0 is usual."""
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    """A JSON schema that the text has to fit; as response_format."""
    guided_regex: str | None = None
    """A regular expression that the whole text has to match."""
    guided_choice: Texts | None = None
    """Texts of which it has to be one."""
    skip_special_tokens: Literal[True] | None = None
    include_stop_str_in_output: Literal[False] | None = None


class TextPart(PassingObject):
    """A piece of a message's text."""

    type: Literal["text"]
    text: Text


class RefusalPart(PassingObject):
    """A piece of an answer that refused; it is text like the rest."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def text(self) -> str:
        return self.refusal


Content = Text | Annotated[list[TextPart], Field(fail_fast=True)]
AnswerPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
AnswerContent = Text | Annotated[list[AnswerPart], Field(fail_fast=True)]


class ContentMessage(PassingObject):
    """A turn that has a text."""

    content: Content
    name: str | None = NO_EFFECT

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        return _joined(self.content)


class SystemMessage(ContentMessage):
    role: Literal["system", "developer"]


class UserMessage(ContentMessage):
    role: Literal["user"]


class AssistantMessage(PassingObject):
    """An answer, also as it was sent: an SDK may have added fields of its own."""

    ABSENT_IF_EMPTY: ClassVar[frozenset[str]] = frozenset(("tool_calls",))
    role: Literal["assistant"]
    content: AnswerContent | None = None
    refusal: Text | None = None
    """The text, where there is no content."""
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS)] | None = None
    function_call: FunctionCall | None = None
    name: str | None = NO_EFFECT

    @model_validator(mode="after")
    def _says_one_thing(self) -> AssistantMessage:
        if self.tool_calls is not None and self.function_call is not None:
            raise PydanticCustomError("two_calls", "tool_calls and function_call; give one of them")
        if not (self.content is not None or self.refusal is not None or self.tool_calls or self.function_call):
            raise PydanticCustomError("no_content", "content is missing, and there is no call; give one of them")
        return self

    @property
    def text(self) -> str:
        """The content, its parts joined, or the refusal; empty where there is neither."""
        return _joined(self.content if self.content is not None else self.refusal or "")


class ToolMessage(ContentMessage):
    """The result of a tool call."""

    role: Literal["tool"]
    tool_call_id: CallId


class FunctionMessage(PassingObject):
    """The result of a function call."""

    role: Literal["function"]
    name: CalledName
    content: Content | None = None

    @property
    def text(self) -> str:
        return "" if self.content is None else _joined(self.content)


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage, Field(discriminator="role")
]


def _joined(content: str | Sequence[TextPart | RefusalPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _num_chars(messages: Sequence[ChatMessage], tools: Sequence[Tool | LegacyFunction]) -> int:
    """Of contents, of what functions were called with, and of tools as JSON."""
    asked = [message for message in messages if isinstance(message, AssistantMessage)]
    calls = [call.function for message in asked for call in message.tool_calls or ()]
    calls += [message.function_call for message in asked if message.function_call is not None]
    texts = [message.text for message in messages] + [call.arguments for call in calls]
    return sum(map(len, texts)) + sum(len(tool.model_dump_json()) for tool in tools)


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatCompletionRequest(SamplingFields):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = None
    """The newer name of max_tokens."""
    logprobs: bool | None = None
    """Log-probabilities of the tokens of the answer."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """And of so many alternatives of each."""
    add_generation_prompt: bool | None = None
    """False: the prompt ends behind the last message instead of where an answer begins."""
    continue_final_message: bool | None = None
    """True: the answer continues the last message, which is the assistant's; not with add_generation_prompt."""
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """Either way, an answer has at most one call."""
    functions: Annotated[list[LegacyFunction], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    function_call: FunctionChoice | None = None

    @property
    def num_chars(self) -> int:
        """Of all texts that the prompt is made of; tools are shown in it as JSON."""
        return _num_chars(self.messages, [*(self.tools or ()), *(self.functions or ())])


class CompletionRequest(SamplingFields):
    """The body of POST /v1/completions; with `echo`, max_tokens may be 0: the prompt alone is told of."""

    prompt: (
        Text
        | Annotated[PromptTexts, Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[list[Annotated[TokenIds, Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    echo: bool | None = None
    """The prompt comes first, with its log-probabilities where they are wanted; max_tokens may be 0."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = None
    """Log-probabilities of the tokens, and of so many alternatives of each."""
    best_of: int | None = None
    """Only as n."""
    suffix: Literal[""] | None = None

    @property
    def num_chars(self) -> int:
        """Of the longest prompt, where it is text."""
        prompts = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        return max((len(prompt) for prompt in prompts if isinstance(prompt, str)), default=0)


GenerateRequest = ChatCompletionRequest | CompletionRequest


class TokenizeRequest(RequestBody):
    """The body of POST /tokenize: a prompt, or the messages of a chat."""

    ABSENT_IF_EMPTY: ClassVar[frozenset[str]] = frozenset(("tools",))
    prompt: Text | None = None
    messages: Messages | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = NO_EFFECT
    continue_final_message: Literal[False] | None = None
    return_token_strs: bool | None = None

    @property
    def num_chars(self) -> int:
        """Of all texts that it is made of."""
        return len(self.prompt or "") + _num_chars(self.messages or (), self.tools or ())


class DetokenizeRequest(RequestBody):
    """The body of POST /detokenize."""

    tokens: TokenIds
