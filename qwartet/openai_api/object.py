"""The base classes of API objects, and how they treat undeclared fields."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

# Unsupported fields that would change the answer. At the top level every undeclared field is rejected; anywhere else,
# only these are, and others are ignored.
REFUSED_FIELDS = {
    "audio": "answers are text only",
    "audio_url": "the model accepts only text",
    "chat_template": "a request cannot set the chat template",
    "chat_template_kwargs": "it is a field of requests that contain messages",
    "file": "the model accepts only text",
    "file_data": "the model accepts only text",
    "image": "the model accepts only text",
    "image_embeds": "the model accepts only text",
    "image_url": "the model accepts only text",
    "images": "the model accepts only text",
    "input_audio": "the model accepts only text",
    "input_schema": "a function's schema belongs in parameters",
    "moderation": "answers are not moderated",
    "partial": "to continue an answer, set continue_final_message: true",
    "prefix": "to continue an answer, set continue_final_message: true",
    "video": "the model accepts only text",
    "video_url": "the model accepts only text",
    "web_search_options": "there is no web search",
}
_REFUSED_INSIDE = REFUSED_FIELDS.keys() - {"audio"}  # also a field of answers, which clients send back
_EMPTY: tuple[Any, ...] = (None, False, "", [], {})  # values with which such a field requests nothing


class ApiObject(BaseModel):
    """Strict in both directions: no extra fields, no type conversion except int to float.

    A string below a field is its description in /openapi.json and at /docs.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _allow_null(schema: dict[str, Any]) -> None:
    schema["additionalProperties"] = {"type": "null"}


class RequestObject(ApiObject):
    """An object of a request: null means that a field is unset, and so does an empty list for some fields."""

    model_config = ConfigDict(json_schema_extra=_allow_null)
    ABSENT_IF_EMPTY: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: one for name, one in value.items() if cls._is_given(name, one)}

    @classmethod
    def _is_given(cls, name: str, value: Any) -> bool:
        if value is None:
            return name in cls.model_fields and cls.model_fields[name].is_required()
        return not (name in cls.ABSENT_IF_EMPTY and value == [])


def _allow_undeclared(schema: dict[str, Any]) -> None:
    schema.pop("additionalProperties", None)


class PassingObject(RequestObject):
    """A message, a part of one, a call, or a tool: undeclared fields are ignored, except REFUSED_FIELDS.

    SDKs send back what they received, with fields of their own, and servers invent new ones.
    """

    model_config = ConfigDict(json_schema_extra=_allow_undeclared)

    @classmethod
    def _is_given(cls, name: str, value: Any) -> bool:
        if name not in cls.model_fields:  # what is kept here is then rejected, as an undeclared field
            return name in _REFUSED_INSIDE and not any(type(value) is type(one) and value == one for one in _EMPTY)
        return super()._is_given(name, value)


def _whole(text: str) -> str:
    """The text with U+FFFD for unpaired surrogates, which JSON can express and UTF-8 cannot; as in the tokenizer."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


Text = Annotated[str, AfterValidator(_whole)]
"""Text that the model reads."""
