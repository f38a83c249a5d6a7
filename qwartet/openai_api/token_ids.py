"""Text to token ids and back, as the model sees them."""

from __future__ import annotations

from typing import Any

from qwartet.errors import QwartetError
from qwartet.openai_api.answer_objects import DetokenizeResponse, TokenizeResponse
from qwartet.openai_api.endpoints import Endpoints
from qwartet.openai_api.error import ApiError
from qwartet.openai_api.prepare import CHARS_PER_TOKEN, check_text, plain_turns
from qwartet.openai_api.protocol import DetokenizeRequest, TokenizeRequest


def tokenize(endpoints: Endpoints, body: Any) -> dict[str, Any]:
    """The ids of a text, in which nothing is a special token, or of a conversation; ApiError for another body."""
    request = endpoints.parse(TokenizeRequest, body)
    tokenizer = endpoints.llm.tokenizer
    if (request.prompt is None) == (request.messages is None):
        raise ApiError(400, "give either prompt or messages", param="prompt", code="invalid_value")
    check_text(endpoints.llm, request)
    try:
        if request.messages is None:
            ids = tokenizer.encode(request.prompt or "")
        else:
            with_answer = request.add_generation_prompt is not False
            ids = endpoints.llm.prompt_ids(plain_turns(request.messages), with_answer)
    except QwartetError as error:
        raise endpoints.api_error(error, request) from error
    strings = [tokenizer.decode_bytes(token_id).decode("utf-8", "replace") for token_id in ids]
    return TokenizeResponse(
        tokens=ids, count=len(ids), max_model_len=endpoints.llm.engine.max_model_len,
        token_strs=strings if request.return_token_strs else None,
    ).model_dump()  # fmt: skip


def detokenize(endpoints: Endpoints, body: Any) -> dict[str, Any]:
    """The text of ids; ApiError for one that is no token."""
    request = endpoints.parse(DetokenizeRequest, body)
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
