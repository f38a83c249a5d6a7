"""A model for a verb: loaded with progress, and what requests may call it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwartet.cli.progress import byte_progress

if TYPE_CHECKING:
    from qwartet.llm import LLM

BUNDLED_NAME = "qwartet-demo"


def load_llm(model: str | os.PathLike[str] | None, **options: Any) -> LLM:
    """LLM(model, **options), which shows how the weights are packed where they have to be; errors as there."""
    from qwartet.llm import LLM

    with byte_progress("packing the weights, once", "packed (kept for the next start)") as on_packed:
        return LLM(model, on_packed=on_packed, **options)


def own_names(model: str | None) -> list[str]:
    """What requests may call a model: a hub id or its last part; of a directory the name alone, for paths are nobody's
    business."""
    if model is None:
        return [BUNDLED_NAME]
    path = Path(model).expanduser()
    return [path.resolve().name] if path.is_dir() else list(dict.fromkeys([model, Path(model).name]))
