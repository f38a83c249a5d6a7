"""Which models are read, by the model_type in their config.json, and what the others are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.errors import CheckpointError

MODEL_TYPES = ("qwen", "qwen2", "qwen3")
_HINT = 'Qwartet runs dense Qwen text models: model_type "qwen", "qwen2" (Qwen1.5 to Qwen2.5) or "qwen3"'
_MIXTURES = ("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe")
_WITH_OTHER_SENSES = (
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen2_audio", "qwen2_5_omni", "qwen3_omni_moe"),
)


def checked_model_type(raw: Mapping[str, Any], path: Path) -> str:
    """The model_type in the content of a config.json; CheckpointError where that is not supported."""
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and model_type in MODEL_TYPES:
        return model_type
    if model_type in _MIXTURES:
        raise CheckpointError(path, f"model_type is {model_type!r}, a mixture of experts", hint=_HINT)
    if model_type in _WITH_OTHER_SENSES:
        raise CheckpointError(path, f"model_type is {model_type!r}, which takes images or audio", hint=_HINT)
    raise CheckpointError(path, f"model_type is {model_type!r:.80}", hint=_HINT)
