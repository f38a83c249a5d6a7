"""Which files of a directory form the tokenizer of a Qwen2 or Qwen3.

    tokenizer.json           the vocabulary; older checkpoints: vocab.json and merges.txt
    tokenizer_config.json    more added tokens, and named ones, such as eos_token
    added_tokens.json        more added tokens, in older checkpoints

Its chat template is in other files: chat_template_files.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json, read_text
from qwartet.errors import CheckpointError, CheckpointWarning, VocabularyError
from qwartet.models.chat_template_files import template_source
from qwartet.tokenizer.hf_tokenizer import HfTokenizer, NamedTokens
from qwartet.tokenizer.hf_vocabulary import AddedToken, HfVocabulary, added_token
from qwartet.tokenizer.templates.template import ChatTemplate

TOKENIZER_FILE, VOCAB_FILE, MERGES_FILE = "tokenizer.json", "vocab.json", "merges.txt"
SETTINGS_FILE, ADDED_FILE = "tokenizer_config.json", "added_tokens.json"

_NAMES = ("eos_token", "bos_token", "pad_token", "unk_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")  # of transformers 4 and 5


def has_hf_tokenizer(directory: Path) -> bool:
    """Whether a directory holds a tokenizer.json, or a vocab.json with its merges.txt; valid or not."""
    return has_file(directory / TOKENIZER_FILE) or _has_both(directory)


def load_hf_tokenizer(directory: Path) -> HfTokenizer | None:
    """The tokenizer of a directory, with its chat template; None where there is none. VocabularyError for a broken
    file, and for a vocabulary larger than the embedding; CheckpointError for a broken template.
    """
    if not has_hf_tokenizer(directory):
        return None
    settings = _settings(directory)
    names = _named(settings, directory / SETTINGS_FILE)
    more = _more_added(directory, settings)
    path = directory / TOKENIZER_FILE
    if has_file(path):
        vocabulary = HfVocabulary.from_json(_read(path), path, more)
    else:
        merges = directory / MERGES_FILE
        vocab = directory / VOCAB_FILE
        vocabulary = HfVocabulary.from_merges(_read(vocab), vocab, _text(merges), merges, more)
    _check_size(vocabulary, directory)
    tokenizer = HfTokenizer(vocabulary, names, _template(directory, names))
    _tell_unknown(tokenizer, directory / SETTINGS_FILE)
    return tokenizer


def _has_both(directory: Path) -> bool:
    return has_file(directory / VOCAB_FILE) and has_file(directory / MERGES_FILE)


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; VocabularyError."""
    try:
        return read_json(path)
    except CheckpointError as error:
        raise VocabularyError(path, error.reason, hint=error.hint) from None


def _text(path: Path) -> str:
    """The text of a file; VocabularyError."""
    try:
        return read_text(path)
    except CheckpointError as error:
        raise VocabularyError(path, error.reason, hint=error.hint) from None


def _settings(directory: Path) -> dict[str, Any]:
    path = directory / SETTINGS_FILE
    return _read(path) if has_file(path) else {}


def _more_added(directory: Path, settings: Mapping[str, Any]) -> list[AddedToken]:
    """The added tokens that are not in tokenizer.json."""
    path = directory / SETTINGS_FILE
    decoder = settings.get("added_tokens_decoder")
    decoder = {} if decoder is None else decoder
    if not isinstance(decoder, dict) or not all(key.isascii() and key.isdigit() and len(key) < 10 for key in decoder):
        raise VocabularyError(path, "added_tokens_decoder is not an object with ids as keys", hint="download it again")
    found = [added_token(value, path, int(key)) for key, value in decoder.items()]
    path = directory / ADDED_FILE
    if has_file(path):
        known = {token.content for token in found}
        found += [
            added_token({"content": text, "special": text.startswith("<|")}, path, token_id)
            for text, token_id in _read(path).items()
            if text not in known
        ]
    return found


def _named(settings: Mapping[str, Any], path: Path) -> NamedTokens:
    eos, bos, pad, unk = (_written(settings.get(name), name, path) for name in _NAMES)
    additional: list[str] = []
    for key in _LISTS:
        given = settings.get(key)
        tokens = given.values() if isinstance(given, dict) else () if given is None else given
        if not isinstance(given, dict | list | None):
            raise _not_a_text(key, given, path)
        additional += [text for token in tokens if (text := _written(token, key, path)) is not None]
    return NamedTokens(eos, bos, pad, unk, tuple(additional))


def _written(value: Any, name: str, path: Path) -> str | None:
    """How a token is written; older files wrap it in an object. VocabularyError for anything but a text and null."""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str) and value is not None:
        raise _not_a_text(name, value, path)
    return text


def _not_a_text(name: str, value: Any, path: Path) -> VocabularyError:
    return VocabularyError(path, f"{name} is {value!r:.80}, which is not the text of a token", hint="download it again")


def _tell_unknown(tokenizer: HfTokenizer, path: Path) -> None:
    """CheckpointWarning for named tokens that are not in the vocabulary; others are an error of the tokenizer."""
    named = tokenizer.named
    texts = dict.fromkeys(text for text in (named.bos, *named.additional) if text is not None)
    if unknown := [text for text in texts if text not in tokenizer.special_tokens]:
        names = ", ".join(f"{text!r:.40}" for text in unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        message = f"{len(unknown)} tokens are not in the vocabulary and are treated as plain text: {names}"
        warnings.warn(f"{path}: {message}", CheckpointWarning, stacklevel=3)


def _check_size(vocabulary: HfVocabulary, directory: Path) -> None:
    path = directory / "config.json"
    rows = read_json(path).get("vocab_size") if has_file(path) else None
    if isinstance(rows, int) and rows < vocabulary.num_tokens:
        reason = f"has {vocabulary.num_tokens} tokens, but vocab_size in config.json is {rows}"
        raise VocabularyError(vocabulary.path, reason, hint="tokenizer and weights belong to different models")


def _template(directory: Path, named: NamedTokens) -> ChatTemplate | None:
    found = template_source(directory)
    if found is None:
        return None
    names = dict(zip(_NAMES, (named.eos, named.bos, named.pad, named.unk), strict=True))
    tokens = {name: text for name, text in names.items() if text is not None}
    return ChatTemplate(found.default, found.path, tokens, found.tool_use)
