"""Text to token ids and back, as the model sees them."""

from __future__ import annotations

from typing import Any

from qwartet.errors import QwartetError
from qwartet.openai_api.answer_objects import DetokenizeResponse, TokenizeResponse, TokenizerInfo
from qwartet.openai_api.endpoints import Endpoints
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.prepare import CHARS_PER_TOKEN, chat_prompt_ids, check_text
from qwartet.openai_api.protocol import ChatCompletionRequest, DetokenizeRequest, TokenizeRequest
from qwartet.openai_api.tools import tool_chat


def tokenize(endpoints: Endpoints, body: Any) -> dict[str, Any]:
    """The ids of a text, without special tokens, or of a conversation; ApiError for any other body."""
    request = endpoints.parse(TokenizeRequest, body)
    tokenizer = endpoints.llm.tokenizer
    if (request.prompt is None) == (request.messages is None):
        raise ApiError(400, "set either prompt or messages", param="prompt", code="invalid_value")
    check_text(endpoints.llm, request)
    try:
        if request.messages is None:
            ids = tokenizer.encode(request.prompt or "")
        else:
            chat = ChatCompletionRequest(
                messages=request.messages,
                tools=request.tools,
                add_generation_prompt=request.add_generation_prompt,
                chat_template_kwargs=request.chat_template_kwargs,
            )
            ids = chat_prompt_ids(endpoints.llm, chat, tool_chat(chat, endpoints.llm.answer_form.tools))
    except QwartetError as error:
        raise endpoints.api_error(error, request) from error
    strings = [tokenizer.decode_bytes(token_id).decode("utf-8", "replace") for token_id in ids]
    return TokenizeResponse(
        tokens=ids, count=len(ids), max_model_len=endpoints.llm.engine.max_model_len,
        token_strs=strings if request.return_token_strs else None,
    ).model_dump()  # fmt: skip


def tokenizer_info(endpoints: Endpoints) -> dict[str, Any]:
    """The tokenizer's properties, for clients that count tokens or build prompts themselves."""
    llm = endpoints.llm
    tokenizer = llm.tokenizer
    end = tokenizer.decode([tokenizer.eod_id])
    return TokenizerInfo(
        eos_token=end,
        eos_token_id=tokenizer.eod_id,
        pad_token=end,
        vocab_size=tokenizer.num_tokens,
        model_max_length=llm.engine.max_model_len,
        chat_template=llm.family.jinja_template(tokenizer) if llm.generation_defaults.is_chat else None,
    ).model_dump()


def detokenize(endpoints: Endpoints, body: Any) -> dict[str, Any]:
    """The text of ids; ApiError for an id outside the vocabulary."""
    request = endpoints.parse(DetokenizeRequest, body)
    tokenizer = endpoints.llm.tokenizer
    most = CHARS_PER_TOKEN * endpoints.llm.engine.max_model_len  # the most characters that `tokenize` accepts
    if len(request.tokens) > most:
        message = f"there are {len(request.tokens)} tokens; at most {most} are allowed"
        raise ApiError(400, message, param="tokens", code="invalid_value")
    wrong = next((one for one in request.tokens if not 0 <= one < tokenizer.num_tokens), None)
    if wrong is not None:
        message = f"{wrong!s:.40} is not a token id; ids must be from 0 to {tokenizer.num_tokens - 1}"
        raise ApiError(400, message, param="tokens", code="invalid_value")
    return DetokenizeResponse(prompt=tokenizer.decode(request.tokens)).model_dump()
