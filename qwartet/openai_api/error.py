"""Failures as clients see them: OpenAI's error object and an HTTP status."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from qwartet.errors import EngineFailedError, NotAChatModelError, NotFiniteError, RequestError, SettingError
from qwartet.openai_api.answer_objects import ErrorDetails, ErrorResponse
from qwartet.openai_api.log import request_id
from qwartet.openai_api.object import REFUSED_FIELDS

MAX_VALUE_CHARS = 40  # shown of a wrong value
MAX_MESSAGE_CHARS = 600  # a message may quote a wrong value, which can be as long as the body
MAX_ERRORS = 1000  # examined per body; each costs pydantic 15 us and 2 KB
ENGINE_FAILED = "the engine failed or was stopped before the answer was complete; send the request again later"
OUT_OF_MEMORY = "there is not enough memory for this request; shorten the prompt or ask for fewer completions"
_Body = TypeVar("_Body", bound=BaseModel)
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that was rejected or failed."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """`retry_after_s`: when a retry may succeed, if it may."""
        self.status = status
        self.message = _shortened(message, MAX_MESSAGE_CHARS)
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(self.message)

    def to_dict(self) -> dict[str, Any]:
        """The error object as JSON."""
        return self.to_object().model_dump()

    def to_object(self) -> ErrorResponse:
        """The error object."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        # A quoted value may contain unpaired surrogates, which cannot be encoded in an answer.
        message = self.message.encode("utf-8", "replace").decode()
        param = None if self.param is None else self.param.encode("utf-8", "replace").decode()
        details = ErrorDetails(message=message, type=kind, param=param, code=self.code)
        return ErrorResponse(error=details)


def validated(model: type[_Body], body: Any) -> _Body:
    """A value parsed from JSON as a `model`; ApiError if it does not validate."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise validation_api_error(error, body, model) from error


def validation_api_error(error: ValidationError, body: Any, model: type[BaseModel]) -> ApiError:
    """The error for a body that `model` rejects: its first wrong field, the innermost one of a union."""
    if error.error_count() > MAX_ERRORS:
        message = f"{error.error_count()} fields are unsupported or have invalid values; see /docs"
        return ApiError(400, message, code="invalid_value")
    found = [(_place(one["loc"], body, one["type"]), one) for one in error.errors(include_url=False)]
    # Each member of a union reports its errors: take the first of the innermost ones, type mismatches last.
    place, details = max(found, key=lambda pair: (len(pair[0]), not pair[1]["type"].endswith("_type")))
    kind, message = details["type"], details["msg"]
    if kind.startswith("union_tag"):
        place = [*place, details["ctx"]["discriminator"].strip("'")]
    param = ".".join(map(str, place)) or None
    if kind == "extra_forbidden":
        return ApiError(400, _refusal(place, model), param=param, code="unknown_field")
    if kind == "union_tag_invalid":
        context = details["ctx"]
        message = f"{param} is {context['tag']!r:.40}; use one of {context['expected_tags']}"
        return ApiError(400, message, param=param, code="invalid_value")
    if kind in ("missing", "union_tag_not_found"):
        return ApiError(400, f"{param} is missing", param=param, code="missing_field")
    if kind == "literal_error" and details["input"] in list(REFUSED_FIELDS):
        message = f"{param} is {details['input']!r}, which is not supported: {REFUSED_FIELDS[details['input']]}"
        return ApiError(400, f"{message}; use {details['ctx']['expected']}", param=param, code="invalid_value")
    text = "should be an object" if kind == "model_type" else f"{message[:1].lower()}{message[1:]}"
    is_scalar = not isinstance(details["input"], dict | list)
    shown = f" (got {_shortened(repr(details['input']), MAX_VALUE_CHARS)})" if is_scalar else ""
    return ApiError(400, f"{param or 'the body'}: {text}{shown}", param=param, code="invalid_value")


def api_error_of(error: Exception, field: str | None) -> ApiError:
    """The error that a client sees for an exception; `field`: the field of its body at fault."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError | SettingError | NotAChatModelError):
        return ApiError(400, str(error), param=field, code="invalid_value")
    if isinstance(error, EngineFailedError):
        return ApiError(503, ENGINE_FAILED, code="engine_failed")
    if isinstance(error, MemoryError):
        return ApiError(503, OUT_OF_MEMORY, code="out_of_memory")
    if isinstance(error, NotFiniteError):
        return ApiError(500, str(error), code="not_finite")
    return internal_error()


def internal_error() -> ApiError:
    """The error for an unexpected exception: none of its text, only where to find it in the log."""
    known_as = f"request {request_id.get()}" if request_id.get() else "details"
    return ApiError(500, f"internal error; see the server log for {known_as}", code="internal_error")


def _refusal(place: list[int | str], model: type[BaseModel]) -> str:
    """The message for an undeclared field."""
    param, name = ".".join(map(str, place)), str(place[-1])
    if name in REFUSED_FIELDS:
        return f"{param} is not supported: {REFUSED_FIELDS[name]}; leave it out"
    near = difflib.get_close_matches(name, _field_names(model), n=1) if len(place) == 1 else []
    hint = f"did you mean {near[0]}?" if near else "leave it out"
    return f"unsupported field {param!r}; {hint}"


def _field_names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _place(location: tuple[int | str, ...], body: Any, kind: str) -> list[int | str]:
    """The path to a wrong value, without pydantic's names for members of a union."""
    path: list[int | str] = []
    for part in location:
        if isinstance(body, dict) and part == body.get("role"):
            continue  # the member of the union, not a field that happens to have this name
        is_inside = (isinstance(body, dict) and part in body) or (isinstance(body, list) and isinstance(part, int))
        if is_inside:
            body = body[part]
            path.append(part)
    return [*path, location[-1]] if kind == "missing" and path[-1:] != [location[-1]] else path


def _shortened(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[:max_chars]}..."
