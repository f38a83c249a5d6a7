"""generation_config.json: how a checkpoint asks to be sampled, and whether it chats."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.errors import CheckpointError, CheckpointWarning, SettingError

CHAT_FORMATS = ("chatml", "raw")


@dataclass(frozen=True)
class GenerationDefaults:
    """The keys that the published files use; the values here are those of the original where a key is missing."""

    chat_format: str | None = None  # "chatml" or "raw" (a base model); None: not stated
    eos_token_ids: tuple[int, ...] = ()  # each of them ends a completion
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

    @property
    def chat_refusal(self) -> str:
        """Why a model that is none for chats does not chat, and what to do; names no path, for it goes to clients."""
        if self.chat_format is None:
            return (
                "chat_format is missing in its generation_config.json, so that nothing says whether this model chats; "
                'if it does, give --chat-format chatml (in Python chat_format="chatml"), or add the key to that file'
            )
        return "it is a base model (chat_format raw): it completes text and does not chat; use a -Chat checkpoint"


_KINDS: dict[str, tuple[type, ...]] = {
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


def parse_eos(raw: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    """The value of eos_token_id, an id or a list of ids; CheckpointError for anything else."""
    value = raw.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not _is_id_list(ids):
        raise CheckpointError(path, f"eos_token_id is {repr(value)[:80]}; it must be an id or a list of ids")
    return tuple(dict.fromkeys(ids))


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
    values["chat_format"] = chat_format
    values["eos_token_ids"] = parse_eos(raw, path)
    stop_words = raw.get("stop_words_ids")
    if stop_words is not None:
        if not isinstance(stop_words, list) or not all(map(_is_id_list, stop_words)):
            raise CheckpointError(path, f"stop_words_ids is {str(stop_words)[:80]}; it must be a list of lists of ids")
        values["stop_words_ids"] = tuple(tuple(ids) for ids in stop_words if ids)
    return GenerationDefaults(**values)


def load_generation_defaults(directory: Path, chat_format: str | None = None) -> GenerationDefaults:
    """Generation defaults of a checkpoint directory; the library's, with a warning, when it has no file.

    `chat_format` ("chatml", "raw") goes before what the file says; without either, a warning tells how to give it.
    What config.json calls eos_token_id ends a completion too.
    """
    if chat_format is not None and chat_format not in CHAT_FORMATS:
        raise SettingError(f"chat_format is {chat_format!r}; it must be one of {', '.join(CHAT_FORMATS)}")
    path, config = directory / "generation_config.json", directory / "config.json"
    if has_file(path):
        defaults = parse_generation_config(read_json(path), path)
    else:
        warnings.warn(f"{path}: file is missing; sampling defaults are the library's", CheckpointWarning, stacklevel=2)
        defaults = GenerationDefaults()
    if chat_format is None and defaults.chat_format is None:
        message = f"{path}: chat_format is missing; if this model chats, give --chat-format chatml"
        warnings.warn(f'{message} (in Python chat_format="chatml")', CheckpointWarning, stacklevel=2)
    eos = (*defaults.eos_token_ids, *(parse_eos(read_json(config), config) if has_file(config) else ()))
    return replace(defaults, chat_format=chat_format or defaults.chat_format, eos_token_ids=tuple(dict.fromkeys(eos)))
