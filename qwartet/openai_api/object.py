"""What all objects of the API have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ApiObject(BaseModel):
    """Strict in both directions: no other field, no conversion of types but int to float.

    A string below a field is its description in /openapi.json and at /docs.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
