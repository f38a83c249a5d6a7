"""OpenAI's request objects, with vLLM's fields where OpenAI has none.

A field is supported, accepted and ignored (NO_EFFECT), or rejected with an error that names it. Rejected are
unsupported values that would change the answer and, at the top level, all undeclared fields; inside messages and tools
object.py ignores those. SamplingParams checks the bounds of sampling settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator
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
from qwartet.tokenizer.answer_form import Thinking

NO_EFFECT_WORDS = "Accepted and ignored."
MAX_STOPS = 16  # OpenAI has 4
MAX_STOP_CHARS = 256
MAX_STOP_TOKEN_IDS = 1024
MAX_BIASES = 1024
MAX_MESSAGES = 2048
MAX_PROMPTS = 128
MAX_TOP_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5

StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
# Validation of a list stops at its first wrong item: a million errors would take a gigabyte and minutes.
TokenIds = Annotated[list[int], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]
PromptTexts = Annotated[list[Text], Field(fail_fast=True)]


NO_EFFECT = Field(None, description=NO_EFFECT_WORDS)


class StreamOptions(RequestObject):
    """Options of a stream."""

    include_usage: bool | None = None
    """A final chunk without choices states the total usage."""
    continuous_usage_stats: bool | None = None
    """Every chunk states the usage so far."""
    include_obfuscation: bool | None = NO_EFFECT


class JsonSchemaFormat(RequestObject):
    """A named schema. It is enforced whether `strict` is set or not."""

    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(RequestObject):
    """The required format of the text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(RequestObject):
    """The same in vLLM's names; exactly one must be set."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Texts | None = None


class RequestBody(RequestObject):
    """The fields of every request."""

    model: str | None = None
    """A name of the served model; defaults to the first."""


class HarmlessFields(RequestBody):
    """Fields that are accepted and ignored: labels and hints that do not change answers."""

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
    # vLLM's, restricted to the values with which they change nothing:
    add_special_tokens: bool | None = NO_EFFECT
    guided_decoding_backend: str | None = NO_EFFECT
    length_penalty: Annotated[float, Field(ge=1, le=1)] | None = NO_EFFECT
    return_token_ids: Literal[False] | None = NO_EFFECT
    return_tokens_as_token_ids: Literal[False] | None = NO_EFFECT
    spaces_between_special_tokens: bool | None = NO_EFFECT
    use_beam_search: Literal[False] | None = NO_EFFECT


class SamplingFields(HarmlessFields):
    """The fields of both endpoints; defaults come from the checkpoint's generation_config.json."""

    ABSENT_IF_EMPTY: ClassVar[frozenset[str]] = frozenset(
        ("functions", "modalities", "stop", "stop_token_ids", "tools")
    )
    max_tokens: int | None = None
    """Per completion; defaults to max_new_tokens of generation_config.json, else to the room left in the context."""
    temperature: float | None = None
    """From 0 (greedy) to 100."""
    top_p: float | None = None
    """From 0 to 1: samples from the most probable tokens that together have this probability."""
    n: int | None = None
    """Number of completions of the prompt, at most `--max-completions`."""
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    """Texts that end a completion; they are not part of it."""
    seed: int | None = None
    """At least 0; the same seed gives the same text, regardless of other requests."""
    presence_penalty: float | None = None
    """From -100 to 100; subtracted from the logits of tokens already in the completion."""
    frequency_penalty: float | None = None
    """From -100 to 100; subtracted once per occurrence in the completion."""
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_BIASES)] | None = None
    """Token ids to numbers from -100 to 100 that are added to their logits."""
    stream: bool | None = None
    """Server-sent events as text is generated; the last one is [DONE]."""
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    """The required format of the text; with tools, it applies to answers without a call."""
    # vLLM's:
    top_k: int | None = None
    """Samples from this many most probable tokens; 0 and -1 keep all."""
    min_p: float | None = None
    """From 0 to 1: drops tokens less probable than this fraction of the most probable one."""
    repetition_penalty: float | None = None
    """From 0.01 to 100; divides the positive logits of earlier tokens and multiplies their negative ones."""
    min_tokens: int | None = None
    """No stop token is generated before this many tokens."""
    ignore_eos: bool | None = None
    """Continues after the model's own stop tokens."""
    stop_token_ids: Annotated[TokenIds, Field(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    """In addition to the model's own stop tokens."""
    priority: int | None = None
    """Smaller numbers are served first; defaults to 0."""
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    """A JSON schema that the text must match, as with response_format."""
    guided_regex: str | None = None
    """A regular expression that the entire text must match."""
    guided_choice: Texts | None = None
    """The texts to choose from."""
    skip_special_tokens: Literal[True] | None = None
    include_stop_str_in_output: Literal[False] | None = None


class TextPart(PassingObject):
    """A piece of a message's text."""

    type: Literal["text"]
    text: Text


class RefusalPart(PassingObject):
    """A refusal in an earlier answer; it is treated as text."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def text(self) -> str:
        return self.refusal


Content = Text | Annotated[list[TextPart], Field(fail_fast=True)]
AnswerPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
AnswerContent = Text | Annotated[list[AnswerPart], Field(fail_fast=True)]


class ContentMessage(PassingObject):
    """A turn with text."""

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


def _if_text(value: Any) -> Any:
    return value if isinstance(value, str) else None


Reasoning = Annotated[Text | None, BeforeValidator(_if_text)]
"""Text; anything else under this name has another meaning, and is ignored like undeclared fields."""


class AssistantMessage(PassingObject):
    """An earlier answer, possibly with fields added by an SDK."""

    ABSENT_IF_EMPTY: ClassVar[frozenset[str]] = frozenset(("tool_calls",))
    role: Literal["assistant"]
    content: AnswerContent | None = None
    refusal: Text | None = None
    """The text, if there is no content."""
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS)] | None = None
    function_call: FunctionCall | None = None
    name: str | None = NO_EFFECT
    reasoning_content: Reasoning = None
    """What the answer's thinking was; the chat template of the model decides whether it is kept."""
    reasoning: Reasoning = None
    """The same in newer servers' name."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> AssistantMessage:
        if self.tool_calls is not None and self.function_call is not None:
            raise PydanticCustomError("two_calls", "tool_calls and function_call are mutually exclusive; set only one")
        if not (self.content is not None or self.refusal is not None or self.tool_calls or self.function_call):
            raise PydanticCustomError("no_content", "content is missing, and there is no call; send one of them")
        return self

    @property
    def text(self) -> str:
        """The content, its parts joined, or the refusal; empty if there is neither."""
        return _joined(self.content if self.content is not None else self.refusal or "")

    @property
    def thinking(self) -> str | None:
        """The reasoning, under either name."""
        return self.reasoning if self.reasoning_content is None else self.reasoning_content


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
    """Characters of contents, of reasoning, of the arguments of calls, and of tools as JSON."""
    asked = [message for message in messages if isinstance(message, AssistantMessage)]
    calls = [call.function for message in asked for call in message.tool_calls or ()]
    calls += [message.function_call for message in asked if message.function_call is not None]
    texts = [message.text for message in messages] + [call.arguments for call in calls]
    texts += [message.thinking for message in asked if message.thinking is not None]
    return sum(map(len, texts)) + sum(len(tool.model_dump_json()) for tool in tools)


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatTemplateKwargs(RequestObject):
    """Settings of the model's chat template; vLLM passes on any."""

    enable_thinking: bool | None = None
    """Whether the answer begins with thinking, for models that can do both."""


class ChatCompletionRequest(SamplingFields):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = None
    """The newer name of max_tokens."""
    logprobs: bool | None = None
    """Log-probabilities of the tokens of the answer."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """Include this many alternatives per token."""
    add_generation_prompt: bool | None = None
    """False: the prompt ends after the last message instead of opening an answer."""
    continue_final_message: bool | None = None
    """True: the answer continues the last message, an assistant's; not with add_generation_prompt."""
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """False: an answer has at most one call, as it always has with first-generation Qwen."""
    functions: Annotated[list[LegacyFunction], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    function_call: FunctionChoice | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    enable_thinking: bool | None = None
    """The same as in chat_template_kwargs, where Alibaba's API has it."""
    reasoning_effort: str | None = None
    """`none`: without thinking; anything else: with it. Ignored by models that never think."""
    include_reasoning: bool | None = None
    """False: leaves reasoning_content out of the answer."""

    def wants_thinking(self, ability: Thinking) -> bool | None:
        """Whether the answer is to begin with thinking; None: as the model has it. `ability`: the model's.

        The setting of the template counts before the effort, which many clients send to every model.
        """
        setting = None if self.chat_template_kwargs is None else self.chat_template_kwargs.enable_thinking
        setting = self.enable_thinking if setting is None else setting
        if setting is None and self.reasoning_effort is not None and ability != "never":
            return self.reasoning_effort != "none"
        return setting

    @property
    def num_chars(self) -> int:
        """Characters of all texts in the prompt, which contains tools as JSON."""
        return _num_chars(self.messages, [*(self.tools or ()), *(self.functions or ())])


class CompletionRequest(SamplingFields):
    """The body of POST /v1/completions."""

    prompt: (
        Text
        | Annotated[PromptTexts, Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[list[Annotated[TokenIds, Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    echo: bool | None = None
    """Prepends the prompt, with its log-probabilities if requested; max_tokens may then be 0 for the prompt alone."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = None
    """Log-probabilities of the tokens, and of this many alternatives per token."""
    best_of: int | None = None
    """Must equal n."""
    suffix: Literal[""] | None = None

    @property
    def num_chars(self) -> int:
        """Characters of the longest text prompt."""
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
    chat_template_kwargs: ChatTemplateKwargs | None = None
    return_token_strs: bool | None = None

    @property
    def num_chars(self) -> int:
        """Characters of all texts in it."""
        return len(self.prompt or "") + _num_chars(self.messages or (), self.tools or ())


class DetokenizeRequest(RequestBody):
    """The body of POST /detokenize."""

    tokens: TokenIds
