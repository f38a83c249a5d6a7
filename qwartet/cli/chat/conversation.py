"""A conversation, and the JSON file that it is saved in. docs/chat.md shows the format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwartet.cli.chat.sampling_settings import checked
from qwartet.errors import SettingError
from qwartet.files import atomic_write, decode_text
from qwartet.tokenizer.history import SAVED_FORMAT as FORMAT
from qwartet.tokenizer.history import SAVED_VERSION as VERSION

MAX_FILE_BYTES = 64 * 2**20
_CHOOSE = "choose a file written by /save"
_FIX = "fix the file, or choose another"
_KEYS = {"format", "version", "system", "turns", "sampling"}


@dataclass
class Conversation:
    """Turns, system prompt and sampling settings."""

    system: str | None = None  # None: the model's default
    turns: list[tuple[str, str]] = field(default_factory=list)  # (query, answer), oldest first
    sampling: dict[str, Any] = field(default_factory=dict)  # what differs from the model's defaults

    def to_dict(self) -> dict[str, Any]:
        """The object that is saved."""
        turns = [{"user": query, "assistant": answer} for query, answer in self.turns]
        return {
            "format": FORMAT, "version": VERSION, "system": self.system, "turns": turns, "sampling": self.sampling,
        }  # fmt: skip


def save_conversation(conversation: Conversation, path: Path, *, overwrite: bool) -> None:
    """Writes the complete file or nothing; SettingError if the path is unusable, or exists and `overwrite` is off."""
    if not path.parent.is_dir():
        raise SettingError(f"{path.parent}: no such directory; create it, or choose another")
    if path.exists() and not path.is_file():
        raise SettingError(f"{path} is not a file; choose another name")
    if path.exists() and not overwrite:
        raise SettingError(f"{path} already exists; /save! overwrites it")
    text = json.dumps(conversation.to_dict(), ensure_ascii=False, indent=1) + "\n"
    with atomic_write(path) as unfinished, open(unfinished, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def load_conversation(path: Path) -> Conversation:
    """The conversation in a file; SettingError if anything in it is invalid."""
    if not path.is_file():
        raise SettingError(f"{path}: no such file; /save creates one")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SettingError(f"{path} is larger than {MAX_FILE_BYTES} bytes; {_CHOOSE}")
    try:
        found = json.loads(decode_text(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path} is not valid JSON ({error}); {_CHOOSE}") from error
    try:
        return _conversation(found)
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error


def _conversation(found: Any) -> Conversation:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SettingError(f"not a saved conversation; {_CHOOSE}")
    if found.get("version") != VERSION or isinstance(found["version"], bool):
        raise SettingError(f"version {found.get('version')!r:.20} is not supported; it must be {VERSION}")
    if wrong := sorted(found.keys() ^ _KEYS):
        raise SettingError(f"{'unsupported' if wrong[0] in found else 'missing'} field {wrong[0]!r:.80}; {_FIX}")
    turns, sampling = found["turns"], found["sampling"]
    if not isinstance(turns, list) or not isinstance(sampling, Mapping):
        raise SettingError(f"turns must be a list, and sampling an object; {_FIX}")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or turn.keys() != {"user", "assistant"}:
            raise SettingError(f"turn {number} must have exactly the fields user and assistant; {_FIX}")
        _check_text(turn["user"], f"turn {number}, user")
        _check_text(turn["assistant"], f"turn {number}, assistant")
    if found["system"] is not None:
        _check_text(found["system"], "system")
    pairs = [(turn["user"], turn["assistant"]) for turn in turns]
    return Conversation(found["system"], pairs, checked(sampling))


def _check_text(text: Any, place: str) -> None:
    if not isinstance(text, str):
        raise SettingError(f"{place} is not a string; {_FIX}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingError(f"{place} has an unpaired surrogate at offset {error.start}; {_FIX}") from error
