"""What the model returns, by the name that this version of transformers has for the cache."""

from __future__ import annotations

from dataclasses import fields

from transformers.modeling_outputs import CausalLMOutputWithPast as Result

CACHE_NAME = "cache" if "cache" in {field.name for field in fields(Result)} else "past_key_values"
"""Field of a result, and argument of generate; renamed in the course of transformers 5."""

__all__ = ["CACHE_NAME", "Result"]
