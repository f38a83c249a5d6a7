"""Which files of a directory form its vocabulary: the `.tiktoken` file, and the extra one that its config names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qwartet.checkpoint.json_file import read_json
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer, find_vocabulary
from qwartet.tokenizer.vocabulary import SPECIAL_TOKENS

CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
_KEY = "extra_vocab_file"


def load_tokenizer(directory: Path) -> TiktokenTokenizer:
    """The tokenizer of a directory, its extra vocabulary included; VocabularyError, CheckpointError."""
    return TiktokenTokenizer.load(directory, extra_vocabulary(directory))


def extra_vocabulary(directory: Path) -> Path | None:
    """The extra vocabulary that tokenizer_config.json names, a file of the directory.

    CheckpointError when it is missing; CheckpointWarning for an extra vocabulary in the directory that is not used.
    """
    path = directory / CONFIG_FILE
    config = read_json(path) if path.is_file() else {}
    extra = _named(config, path)
    others = {file.name for file in directory.glob("*.tiktoken")} - {find_vocabulary(directory).name}
    if unused := sorted(others - ({extra.name} if extra else set())):
        message = f'it is not used; to use it, add "{_KEY}": "{unused[0]}" to {CONFIG_FILE}'
        _warn(f"{directory / unused[0]}: found an extra vocabulary; {message}")
    added = directory / ADDED_FILE
    _tell_unknown(added, read_json(added) if added.is_file() else {})
    tokens = config.get("additional_special_tokens")
    _tell_unknown(path, tokens if isinstance(tokens, list) else ())
    return extra


def _named(config: Mapping[str, Any], path: Path) -> Path | None:
    name = config.get(_KEY)
    if name is None:
        return None
    if not isinstance(name, str) or not Path(name).name:
        raise CheckpointError(path, f"{_KEY} is {name!r:.80}; it must be the name of a file")
    file = path.parent / Path(name).name  # only files of the checkpoint are read, whatever path its author had
    if not file.is_file():
        hint = f"copy it there, or remove {_KEY}"
        raise CheckpointError(path, f"{_KEY} is {name!r:.80}, but {file.name:.80} is not in the directory", hint=hint)
    return file


def _tell_unknown(path: Path, tokens: Iterable[Any]) -> None:
    texts = [token.get("content") if isinstance(token, Mapping) else token for token in tokens]
    unknown = [text for text in texts if text not in SPECIAL_TOKENS]
    if unknown:
        names = ", ".join(f"{text!r:.40}" for text in unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        reason = f"{len(unknown)} tokens are not in the vocabulary and are treated as plain text: {names}"
        _warn(f"{path}: {reason}; only the published special tokens and an {_KEY} are read")


def _warn(message: str) -> None:
    warnings.warn(message, CheckpointWarning, stacklevel=4)
