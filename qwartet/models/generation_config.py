"""generation_config.json: a checkpoint's sampling defaults, and whether it is a chat model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.errors import CheckpointError, CheckpointWarning, SettingError
from qwartet.models.chat_template_files import template_source
from qwartet.models.generation_keys import (
    BOUNDS,
    ID_LISTS,
    NEUTRAL,
    PUBLISHED_NAMES,
    SEQUENCE_LISTS,
    WITHOUT_EFFECT,
    is_neutral,
)
from qwartet.models.model_types import WITH_TEMPLATES

CHAT_FORMATS = ("chatml", "raw")


@dataclass(frozen=True)
class GenerationDefaults:
    """The supported keys; the values here apply when a key is missing or null."""

    chat_format: str | None = None  # "chatml" (it chats, in the form of its family) or "raw"; None: not stated
    eos_token_ids: tuple[int, ...] = ()  # each ends a completion
    pad_token_id: int | None = None
    max_window_size: int = 6144  # prompt tokens beyond which old turns are dropped
    max_new_tokens: int = 512
    max_length: int | None = None  # of prompt and completion, where the file has no max_new_tokens
    min_new_tokens: int = 0
    min_length: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop_words_ids: tuple[tuple[int, ...], ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()

    @property
    def is_chat(self) -> bool:
        return self.chat_format == "chatml"

    @property
    def chat_refusal(self) -> str:
        """Why the model does not chat, and what to do; contains no path, because clients see it."""
        if self.chat_format is None:
            return (
                "chat_format is missing in its generation_config.json, so it is unknown whether this is a chat model; "
                'if it is, set --chat-format chatml (in Python chat_format="chatml"), or add the key to that file'
            )
        return "this is a base model (chat_format raw), which completes text but does not chat; use a -Chat checkpoint"


_KINDS: dict[str, tuple[type, ...]] = {
    "pad_token_id": (int,),
    "do_sample": (bool,),
}
_NUMBERS = (
    "max_window_size", "max_new_tokens", "max_length", "min_new_tokens", "min_length", "temperature", "top_k", "top_p",
    "min_p", "repetition_penalty", "no_repeat_ngram_size",
)  # fmt: skip
_KNOWN = {field.name for field in fields(GenerationDefaults)} | {"eos_token_id"} | NEUTRAL.keys() | WITHOUT_EFFECT


def _is_id_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value)


def parse_eos(raw: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    """The value of eos_token_id, an id or a list of ids; CheckpointError for anything else."""
    value = raw.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not _is_id_list(ids):
        raise CheckpointError(path, f"eos_token_id is {value!r:.80}; it must be an id or a list of ids")
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
    values |= _numbers(raw, path) | _lists(raw, path)
    told = _settle_lengths(values)
    told += [
        f"{key} {raw[key]!r:.40} ({meaning})"
        for key, (_, meaning) in NEUTRAL.items()
        if key in raw and not is_neutral(key, raw[key])
    ]
    unknown = [key for key, value in raw.items() if value is not None and key not in _KNOWN and key[:1] != "_"]
    told += [f"{key!r:.80} (an unknown key)" for key in unknown]
    if told:
        more = f" and {len(told) - 20} more" if len(told) > 20 else ""
        warnings.warn(f"{path}: ignored: {'; '.join(told[:20])}{more}", CheckpointWarning, stacklevel=3)
    return GenerationDefaults(**values)


def _numbers(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found = {key: raw[key] for key in _NUMBERS if raw.get(key) is not None}
    if found.get("top_k") == -1:  # as other engines write it
        found["top_k"] = 0
    for key, value in found.items():
        bounds = BOUNDS[PUBLISHED_NAMES.get(key, key)]
        if not bounds.holds(value):
            raise CheckpointError(path, f"{key} is {value!r:.80}; it must be {bounds}", hint="correct or remove it")
    return found


def _lists(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in (*SEQUENCE_LISTS, *ID_LISTS):
        value = raw.get(key)
        if value is None:
            continue
        is_of_lists = key in SEQUENCE_LISTS
        if not isinstance(value, list) or not (all(map(_is_id_list, value)) if is_of_lists else _is_id_list(value)):
            what = "a list of lists of ids" if is_of_lists else "a list of ids"
            raise CheckpointError(path, f"{key} is {value!r:.80}; it must be {what}")
        found[key] = tuple(tuple(ids) for ids in value if ids) if is_of_lists else tuple(value)
    texts = raw.get("stop_strings")
    if texts is not None:
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise CheckpointError(path, f"stop_strings is {texts!r:.80}; it must be a string or a list of strings")
        found["stop_strings"] = tuple(texts)
    return found


def _settle_lengths(values: dict[str, Any]) -> list[str]:
    """Makes the limits of a file agree, as transformers does; returns what to warn about."""
    told = []
    if "max_length" in values and "max_new_tokens" in values:
        told.append(f"max_length {values.pop('max_length')} (max_new_tokens overrides it)")
    elif "max_length" in values:
        values["max_new_tokens"] = values["max_length"]
    most = values.get("max_new_tokens", GenerationDefaults.max_new_tokens)
    if values.get("min_new_tokens", 0) > most:
        told.append(f"min_new_tokens {values['min_new_tokens']} (an answer has at most {most} tokens)")
        values["min_new_tokens"] = most
    return told


def _whole_context(raw: Mapping[str, Any], raw_config: Mapping[str, Any]) -> dict[str, Any]:
    """Limits as long as the context, where the file sets none: these models think for thousands of tokens."""
    length = raw_config.get("max_position_embeddings")
    if not BOUNDS["max_tokens"].holds(length):  # the config's own parser says so
        return {}
    limits = {"max_window_size": ("max_window_size",), "max_new_tokens": ("max_new_tokens", "max_length")}
    return {name: length for name, keys in limits.items() if all(raw.get(key) is None for key in keys)}


def load_generation_defaults(directory: Path, chat_format: str | None = None) -> GenerationDefaults:
    """Generation defaults of a checkpoint directory; the library's, with a warning, when it has no file.

    `chat_format` ("chatml", "raw") overrides the file; without either, a chat template decides in the families that
    have them, and in the others a warning says how to set it. The eos_token_id of config.json ends a completion too.
    In the families with templates, an answer may be as long as the context unless the file limits it.
    """
    if chat_format is not None and chat_format not in CHAT_FORMATS:
        raise SettingError(f"chat_format is {chat_format!r}; it must be one of {', '.join(CHAT_FORMATS)}")
    path, config = directory / "generation_config.json", directory / "config.json"
    raw = read_json(path) if has_file(path) else {}
    if has_file(path):
        defaults = parse_generation_config(raw, path)
    else:
        warnings.warn(f"{path}: file is missing; sampling defaults are the library's", CheckpointWarning, stacklevel=2)
        defaults = GenerationDefaults()
    raw_config = read_json(config) if has_file(config) else {}
    if raw_config.get("model_type") in WITH_TEMPLATES:
        defaults = replace(defaults, **_whole_context(raw, raw_config))
        if chat_format is None and defaults.chat_format is None:
            chat_format = "raw" if template_source(directory) is None else "chatml"
    if chat_format is None and defaults.chat_format is None:
        message = f"{path}: chat_format is missing; if this is a chat model, set --chat-format chatml"
        warnings.warn(f'{message} (in Python chat_format="chatml")', CheckpointWarning, stacklevel=2)
    eos = (*defaults.eos_token_ids, *parse_eos(raw_config, config))
    return replace(defaults, chat_format=chat_format or defaults.chat_format, eos_token_ids=tuple(dict.fromkeys(eos)))
