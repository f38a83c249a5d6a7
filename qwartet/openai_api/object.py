"""What the objects of the API have in common, and what becomes of a field that none of them declares."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

# Fields without which the answer would be another one. Anywhere else than at the top level, where every undeclared
# field is refused, these are the only ones that are not passed over.
REFUSED_FIELDS = {
    "audio": "answers are text alone",
    "audio_url": "the model reads text alone",
    "chat_template": "a request brings no template",
    "chat_template_kwargs": "a request brings no template",
    "file": "the model reads text alone",
    "file_data": "the model reads text alone",
    "image": "the model reads text alone",
    "image_embeds": "the model reads text alone",
    "image_url": "the model reads text alone",
    "images": "the model reads text alone",
    "input_audio": "the model reads text alone",
    "input_schema": "the schema of a function is called parameters",
    "moderation": "answers are not moderated",
    "partial": "an answer is continued by continue_final_message: true",
    "prefix": "an answer is continued by continue_final_message: true",
    "video": "the model reads text alone",
    "video_url": "the model reads text alone",
    "web_search_options": "nothing is looked up on the web",
}
_REFUSED_INSIDE = REFUSED_FIELDS.keys() - {"audio"}  # which is a field of answers that are sent back, too
_EMPTY: tuple[Any, ...] = (None, False, "", [], {})  # by which such a field asks for nothing


class ApiObject(BaseModel):
    """Strict in both directions: no other field, no conversion of types but int to float.

    A string below a field is its description in /openapi.json and at /docs.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _allow_null(schema: dict[str, Any]) -> None:
    schema["additionalProperties"] = {"type": "null"}


class RequestObject(ApiObject):
    """An object of a request: null means that a field is not given, whatever the field; some lists do if empty."""

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
    """A message, or a part of one, a call, a tool: what is not declared has no effect, but for REFUSED_FIELDS.

    SDKs send back what they got, with fields of their own, and servers invent new ones.
    """

    model_config = ConfigDict(json_schema_extra=_allow_undeclared)

    @classmethod
    def _is_given(cls, name: str, value: Any) -> bool:
        if name not in cls.model_fields:  # what is kept is refused by its name, as any undeclared field is
            return name in _REFUSED_INSIDE and not any(type(value) is type(one) and value == one for one in _EMPTY)
        return super()._is_given(name, value)


def _whole(text: str) -> str:
    """Half a surrogate pair, which JSON can spell and no text can hold, becomes U+FFFD, as in the tokenizer."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


Text = Annotated[str, AfterValidator(_whole)]
"""Text that the model reads."""
