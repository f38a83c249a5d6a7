"""OpenAI's response objects."""

from __future__ import annotations

from typing import Literal

from qwartet.openai_api.object import ApiObject
from qwartet.openai_api.tool_protocol import FunctionCall, ToolCall
from qwartet.tokenizer.answer_form import Thinking

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class PromptTokensDetails(ApiObject):
    cached_tokens: int  # computed by earlier requests


class CompletionTokensDetails(ApiObject):
    reasoning_tokens: int  # thinking, its tags included


class Usage(ApiObject):
    """Tokens used by a request, stop tokens included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ThinkingUsage(Usage):
    """The same where answers think."""

    completion_tokens_details: CompletionTokensDetails


AnyUsage = ThinkingUsage | Usage


class TopLogprob(ApiObject):
    """A candidate token; its log-probability is in nats."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    """The token that was chosen."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(ApiObject):
    content: list[ChatLogprob]
    refusal: None = None


class AnswerMessage(ApiObject):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ToolCallsMessage(ApiObject):
    """An answer that calls tools; `content` is the text before the call, a thought in ReAct."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall]


class FunctionCallMessage(ApiObject):
    """The same for the older `function_call` field."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    function_call: FunctionCall


class ThinkingAnswer(AnswerMessage):
    """An answer that began with thinking."""

    reasoning_content: str


class ThinkingToolCalls(ToolCallsMessage):
    """The same for one that calls tools."""

    reasoning_content: str


class ThinkingFunctionCall(FunctionCallMessage):
    """The same for the older field."""

    reasoning_content: str


AnyMessage = (
    ThinkingAnswer | ThinkingToolCalls | ThinkingFunctionCall | AnswerMessage | ToolCallsMessage | FunctionCallMessage
)


THINKING_KINDS: dict[type[AnyMessage], type[AnyMessage]] = {
    AnswerMessage: ThinkingAnswer,
    ToolCallsMessage: ThinkingToolCalls,
    FunctionCallMessage: ThinkingFunctionCall,
}
"""The kind of a message to the one that has reasoning too."""


class FunctionCallDelta(ApiObject):
    """The first delta of a call contains its name; each adds to its arguments."""

    name: str | None = None
    arguments: str


class ToolCallDelta(ApiObject):
    """The first delta of a call contains its id and type."""

    index: int  # of the call in the message
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class ChatChoice(ApiObject):
    index: int
    message: AnyMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(ApiObject):
    """The answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int  # seconds since 1970
    model: str
    choices: list[ChatChoice]
    usage: AnyUsage
    system_fingerprint: str


class CompletionLogprobs(ApiObject):
    """One entry per token; a token that ends within a character is written as "bytes:\\\\xe4\\\\xbd"."""

    text_offset: list[int]  # characters of the choice's text before the token
    token_logprobs: list[float | None]  # nothing predicts the first token of a prompt
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(ApiObject):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class Completion(ApiObject):
    """The answer of POST /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: AnyUsage
    system_fingerprint: str


class ChatDelta(ApiObject):
    """What a chunk adds to a message; unset fields are omitted."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionCallDelta | None = None


class ChatChunkChoice(ApiObject):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(ApiObject):
    """An event of a chat stream; unset fields are omitted."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: AnyUsage | None = None
    system_fingerprint: str


class CompletionChunkChoice(ApiObject):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionChunk(ApiObject):
    """An event of a completion stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: AnyUsage | None = None
    system_fingerprint: str


class TokenizeResponse(ApiObject):
    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None


class DetokenizeResponse(ApiObject):
    prompt: str


class TokenizerInfo(ApiObject):
    """The tokenizer in terms of a tokenizer_config.json; no tokens are added before or after a text."""

    tokenizer_class: Literal["QWenTokenizer"] = "QWenTokenizer"
    bos_token: None = None
    eos_token: str
    eos_token_id: int
    pad_token: str
    add_bos_token: Literal[False] = False
    add_eos_token: Literal[False] = False
    vocab_size: int
    model_max_length: int
    chat_template: str | None  # in Jinja; null for a base model


class ModelCard(ApiObject):
    """One of the names under which the model is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["qwartet"] = "qwartet"
    max_model_len: int  # tokens of a prompt and its completion together
    parent: str | None = None  # the model that an adapter belongs to
    is_chat: bool  # false for a base model, which only completes text
    thinking: Thinking  # whether answers begin with thinking; optional: as enable_thinking says


class ModelList(ApiObject):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Version(ApiObject):
    version: str


class ErrorDetails(ApiObject):
    """The error's message, type and code, and the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(ApiObject):
    """The answer to a request that failed."""

    error: ErrorDetails
