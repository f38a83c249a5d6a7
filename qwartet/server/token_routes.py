"""Text to token ids and back, as the model sees them."""

from __future__ import annotations

from typing import Any, TypeVar

from qwartet.errors import QwartetError
from qwartet.openai_api.endpoints import Endpoints
from qwartet.openai_api.error import ApiError, api_error_of, validated
from qwartet.openai_api.prepare import chat_prompt, plain_turns
from qwartet.openai_api.protocol import DetokenizeRequest, TokenizeRequest
from qwartet.openai_api.responses import DetokenizeResponse, TokenizeResponse
from qwartet.server.http_body import check_text, json_of
from qwartet.server.limits import CHARS_PER_TOKEN

_Body = TypeVar("_Body", TokenizeRequest, DetokenizeRequest)


def tokenize(endpoints: Endpoints, raw: bytes) -> dict[str, Any]:
    """The ids of a text, in which nothing is a special token, or of a conversation; ApiError for another body."""
    request = _parse(endpoints, TokenizeRequest, raw)
    tokenizer = endpoints.llm.tokenizer
    if (request.prompt is None) == (request.messages is None):
        raise ApiError(400, "give either prompt or messages", param="prompt", code="invalid_value")
    check_text(request.num_chars, endpoints.llm.engine.max_model_len)
    try:
        if request.messages is None:
            ids = tokenizer.encode(request.prompt or "")
        else:
            turns = plain_turns(request.messages)
            ids = chat_prompt(endpoints.llm, turns, request.add_generation_prompt is not False)
    except QwartetError as error:
        raise api_error_of(error, TokenizeRequest) from error
    strings = [tokenizer.decode_bytes(token_id).decode("utf-8", "replace") for token_id in ids]
    return TokenizeResponse(
        tokens=ids, count=len(ids), max_model_len=endpoints.llm.engine.max_model_len,
        token_strs=strings if request.return_token_strs else None,
    ).model_dump()  # fmt: skip


def detokenize(endpoints: Endpoints, raw: bytes) -> dict[str, Any]:
    """The text of ids; ApiError for one that is no token."""
    request = _parse(endpoints, DetokenizeRequest, raw)
    tokenizer = endpoints.llm.tokenizer
    most = CHARS_PER_TOKEN * endpoints.llm.engine.max_model_len  # as many as `tokenize` takes characters
    if len(request.tokens) > most:
        message = f"there are {len(request.tokens)} tokens; at most {most} at once are possible"
        raise ApiError(400, message, param="tokens", code="invalid_value")
    wrong = next((one for one in request.tokens if not 0 <= one < tokenizer.num_tokens), None)
    if wrong is not None:
        message = f"{wrong!s:.40} is no token; ids lie in 0..{tokenizer.num_tokens - 1}"
        raise ApiError(400, message, param="tokens", code="invalid_value")
    return DetokenizeResponse(prompt=tokenizer.decode(request.tokens)).model_dump()


def _parse(endpoints: Endpoints, kind: type[_Body], raw: bytes) -> _Body:
    request = validated(kind, json_of(raw))
    endpoints.model_name(request.model)
    return request
