"""generation_config.json: how a checkpoint asks to be sampled, and whether it chats."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwartet.checkpoint.json_file import read_json
from qwartet.errors import CheckpointError, CheckpointWarning

CHAT_FORMATS = ("chatml", "raw")


@dataclass(frozen=True)
class GenerationDefaults:
    """The keys that the published files use; the values here are those of the original where a key is missing."""

    chat_format: str = "raw"  # "chatml" or "raw" (a base model)
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    max_window_size: int = 6144  # prompt tokens beyond which old turns are forgotten
    max_new_tokens: int = 512
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop_words_ids: tuple[tuple[int, ...], ...] = ()

    @property
    def is_chat(self) -> bool:
        return self.chat_format == "chatml"


_KINDS: dict[str, tuple[type, ...]] = {
    "eos_token_id": (int,),
    "pad_token_id": (int,),
    "max_window_size": (int,),
    "max_new_tokens": (int,),
    "do_sample": (bool,),
    "temperature": (int, float),
    "top_k": (int,),
    "top_p": (int, float),
    "repetition_penalty": (int, float),
}


def _is_id_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value)


def parse_generation_config(raw: Mapping[str, Any], path: Path) -> GenerationDefaults:
    """GenerationDefaults from the content of a generation_config.json; CheckpointError names the key that is wrong."""
    values: dict[str, Any] = {}
    for key, kinds in _KINDS.items():
        value = raw.get(key)
        if value is None:
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise CheckpointError(path, f"{key} is {value!r}; it must be of type {kinds[-1].__name__}")
        values[key] = value
    chat_format = raw.get("chat_format")
    if chat_format is not None and chat_format not in CHAT_FORMATS:
        raise CheckpointError(path, f"chat_format is {chat_format!r}; it must be one of {', '.join(CHAT_FORMATS)}")
    if chat_format is None:
        message = f"{path}: chat_format is missing; the checkpoint is taken for a base model"
        warnings.warn(message, CheckpointWarning, stacklevel=3)
    else:
        values["chat_format"] = chat_format
    stop_words = raw.get("stop_words_ids")
    if stop_words is not None:
        if not isinstance(stop_words, list) or not all(map(_is_id_list, stop_words)):
            raise CheckpointError(path, f"stop_words_ids is {str(stop_words)[:80]}; it must be a list of lists of ids")
        values["stop_words_ids"] = tuple(tuple(ids) for ids in stop_words if ids)
    return GenerationDefaults(**values)


def load_generation_defaults(directory: Path) -> GenerationDefaults:
    """Generation defaults of a checkpoint directory; those of a base model, with a warning, when it has no file."""
    path = directory / "generation_config.json"
    if not path.is_file():
        warnings.warn(f"{path}: file is missing; sampling defaults are the library's", CheckpointWarning, stacklevel=2)
        return GenerationDefaults()
    return parse_generation_config(read_json(path), path)
