"""JSON responses, with OpenAI's error object for every failure."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from qwartet.openai_api.error import ApiError


class JsonAnswer(Response):
    """A JSON body. Unpaired surrogates, which cannot be encoded, become question marks."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )


def error_answer(error: ApiError) -> JsonAnswer:
    """The response for a failure."""
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.code == "invalid_http":
        headers["connection"] = "close"  # it is unclear where the next request begins
    return JsonAnswer(error.to_dict(), status_code=error.status, headers=headers)
