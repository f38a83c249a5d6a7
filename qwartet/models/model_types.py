"""Which models are read, by the model_type in their config.json, and what the others are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.errors import CheckpointError

MODEL_TYPES = ("qwen", "qwen2", "qwen3")
WITH_TEMPLATES = ("qwen2", "qwen3")  # whose checkpoints bring a chat template if they chat
_HINT = 'Qwartet runs dense Qwen text models: model_type "qwen", "qwen2" (Qwen1.5 to Qwen2.5) or "qwen3"'
_WITH_OTHER_SENSES = re.compile(r"qwen\w*_(vl|audio|omni)(_|$)", re.ASCII)
_MIXTURES = re.compile(r"qwen\w*_(moe|next)(_|$)", re.ASCII)


def checked_model_type(raw: Mapping[str, Any], path: Path) -> str:
    """The model_type in the content of a config.json; CheckpointError where that is not supported."""
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and model_type in MODEL_TYPES:
        return model_type
    name = model_type if isinstance(model_type, str) else ""
    if _WITH_OTHER_SENSES.match(name):
        raise CheckpointError(path, f"model_type is {name!r:.80}, which takes images or audio", hint=_HINT)
    if _MIXTURES.match(name):
        raise CheckpointError(path, f"model_type is {name!r:.80}, a mixture of experts", hint=_HINT)
    raise CheckpointError(path, f"model_type is {model_type!r:.80}", hint=_HINT)
