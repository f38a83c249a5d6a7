"""OpenAI's response objects."""

from __future__ import annotations

from typing import Literal

from qwartet.openai_api.object import ApiObject
from qwartet.openai_api.tool_protocol import FunctionCall, ToolCall

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class PromptTokensDetails(ApiObject):
    cached_tokens: int  # that other requests had computed


class Usage(ApiObject):
    """What a request took, in tokens; stop tokens count."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(ApiObject):
    """A token that could have been chosen; log-probability in nats."""

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
    """An answer that calls a tool; `content` is the thought before it."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall]


class FunctionCallMessage(ApiObject):
    """The same for the older field."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    function_call: FunctionCall


class FunctionCallDelta(ApiObject):
    """The first of a call has its name, each has more of its arguments."""

    name: str | None = None
    arguments: str


class ToolCallDelta(ApiObject):
    """The first of a call has its id and type."""

    index: Literal[0] = 0
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class ChatChoice(ApiObject):
    index: int
    message: AnswerMessage | ToolCallsMessage | FunctionCallMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(ApiObject):
    """The answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int  # seconds since 1970
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str


class CompletionLogprobs(ApiObject):
    """One entry for each token; a token of no whole characters is written as "bytes:\\\\xe4\\\\xbd"."""

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
    usage: Usage
    system_fingerprint: str


class ChatDelta(ApiObject):
    """What a chunk adds to a message; only what was set is written."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionCallDelta | None = None


class ChatChunkChoice(ApiObject):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(ApiObject):
    """An event of a chat's stream; only fields that were set are written."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str


class CompletionChunkChoice(ApiObject):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionChunk(ApiObject):
    """An event of a completion's stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str


class TokenizeResponse(ApiObject):
    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None


class DetokenizeResponse(ApiObject):
    prompt: str


class TokenizerInfo(ApiObject):
    """The tokenizer in the terms of a tokenizer_config.json; nothing is put before or behind a text."""

    tokenizer_class: Literal["QWenTokenizer"] = "QWenTokenizer"
    bos_token: None = None
    eos_token: str
    eos_token_id: int
    pad_token: str
    add_bos_token: Literal[False] = False
    add_eos_token: Literal[False] = False
    vocab_size: int
    model_max_length: int
    chat_template: str | None  # in Jinja; none for a base model


class ModelCard(ApiObject):
    """A name under which the model is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["qwartet"] = "qwartet"
    max_model_len: int  # tokens of a prompt and its completion
    is_chat: bool  # a base model completes text and does not chat


class ModelList(ApiObject):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Version(ApiObject):
    version: str


class ErrorDetails(ApiObject):
    """What is wrong, and with which field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(ApiObject):
    """The answer where there is none."""

    error: ErrorDetails
