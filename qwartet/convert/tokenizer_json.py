"""tokenizer.json, the file of Hugging Face's library tokenizers, from a `.tiktoken` vocabulary and back.

Same ids: byte-pair merges in the order of the ranks, after NFC and the published pattern. The library finds special
tokens in the normalised text, as the original does ("normalized": true).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwartet.errors import VocabularyError
from qwartet.tokenizer.byte_alphabet import bytes_of, spelled
from qwartet.tokenizer.merge_list import merge_list
from qwartet.tokenizer.tiktoken_tokenizer import PATTERN
from qwartet.tokenizer.vocabulary import MAX_RANK, Vocabulary

_NO_FORM = "this tokenizer has no first-generation form"
_SPLIT = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of tokenizer.json.

    The library numbers special tokens from the size of the vocabulary, whatever id the file gives them. With extra
    vocabulary, whose ids come after theirs, they are therefore part of the vocabulary, which fixes their ids.
    """
    ranks = vocabulary.mergeable_ranks
    has_extra = len(ranks) > vocabulary.num_ranks
    ids = {spelled(token): rank for token, rank in ranks.items()} | (vocabulary.special_tokens if has_extra else {})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, **added_token(token)} for token, token_id in vocabulary.special_tokens.items()
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_SPLIT, _BYTES]},
        "post_processor": _BYTES,
        "decoder": _BYTES,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a piece that is a token stays whole, as in tiktoken
            "vocab": dict(sorted(ids.items(), key=lambda item: item[1])),
            "merges": [f"{spelled(left)} {spelled(right)}" for left, right in merge_list(ranks)],
        },
    }


def added_token(token: str) -> dict[str, Any]:
    """A special token, as tokenizer.json and tokenizer_config.json describe it."""
    return {
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": True,
        "special": True,
    }


def vocabulary_of(content: Mapping[str, Any], path: Path) -> Vocabulary:
    """The vocabulary of a tokenizer.json at `path`.

    VocabularyError for one that does not split and merge like first-generation Qwen, or has other special tokens.
    """
    model = content.get("model")
    if not isinstance(model, Mapping) or model.get("type") != "BPE":
        raise _error(path, "its model is not BPE")
    for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise _error(path, f"its model has {key} {model[key]!r:.40}")
    if (normalizer := content.get("normalizer")) != {"type": "NFC"}:
        raise _error(path, f"normalizer is {normalizer!r:.80}, not NFC")
    _check_pattern(content.get("pre_tokenizer"), path)
    special = _special_tokens(content.get("added_tokens"), path)
    ranks = _ranks(model.get("vocab"), special, path)
    vocabulary = Vocabulary.from_ranks(ranks, path=path)
    _check_merges(model.get("merges"), ranks, path)
    for token, token_id in special.items():
        if vocabulary.special_tokens.get(token, -1) != token_id:
            raise _error(path, f"has the special token {token!r:.40} with id {token_id!r:.40}")
    return vocabulary


def _check_pattern(given: Any, path: Path) -> None:
    parts = given.get("pretokenizers") if isinstance(given, Mapping) else None
    parts = parts if isinstance(parts, list) and all(isinstance(part, Mapping) for part in parts) else []
    wanted = (_SPLIT, {key: value for key, value in _BYTES.items() if key != "trim_offsets"})
    fits = len(parts) == len(wanted) and all(
        part.get(key) == value for part, whole in zip(parts, wanted, strict=True) for key, value in whole.items()
    )
    if not fits:
        raise _error(path, "pre_tokenizer does not split text by the published pattern")


def _special_tokens(given: Any, path: Path) -> dict[str, Any]:
    """The added tokens with their ids, as the file has them."""
    found = {}
    for entry in given if isinstance(given, list) else []:
        token = entry.get("content") if isinstance(entry, Mapping) else None
        if not isinstance(token, str):
            raise _error(path, f"has the special token {entry!r:.40}")
        found[token] = entry.get("id")
    return found


def _ranks(given: Any, special: Mapping[str, Any], path: Path) -> dict[bytes, int]:
    """The tokens of the vocabulary that are not special."""
    if not isinstance(given, Mapping) or not given:
        raise _error(path, "its model has no vocab")
    ranks: dict[bytes, int] = {}
    for text, rank in given.items():
        if text in special and special[text] == rank:
            continue
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= MAX_RANK:
            raise _error(path, f"the id of {text!r:.40} is {rank!r:.40}")
        try:
            ranks[bytes_of(text)] = rank
        except ValueError as error:
            raise _error(path, str(error)) from None
    if len(set(ranks.values())) != len(ranks):
        raise _error(path, "two tokens have the same id")
    return ranks


def _check_merges(given: Any, ranks: Mapping[bytes, int], path: Path) -> None:
    wanted = [[spelled(left), spelled(right)] for left, right in merge_list(ranks)]
    found = given if isinstance(given, list) else []
    if [pair.split(" ") if isinstance(pair, str) else pair for pair in found] != wanted:
        raise _error(path, "its merges are not those that the ids imply")


def _error(path: Path, reason: str) -> VocabularyError:
    return VocabularyError(path, reason, hint=_NO_FORM)
