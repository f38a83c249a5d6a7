"""tokenizer.json, the file of Hugging Face's library tokenizers, from a `.tiktoken` vocabulary and back.

Same ids: byte-pair merges in the order of the ranks, after NFC and the published pattern. The library finds special
tokens in the normalised text, as the original does ("normalized": true).
"""

from __future__ import annotations

from typing import Any

from qwartet.errors import VocabularyError
from qwartet.tokenizer.byte_alphabet import bytes_of, spelled
from qwartet.tokenizer.hf_vocabulary import HfVocabulary
from qwartet.tokenizer.merge_list import merge_list
from qwartet.tokenizer.tiktoken_tokenizer import PATTERN
from qwartet.tokenizer.vocabulary import Vocabulary

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


def vocabulary_of(found: HfVocabulary) -> Vocabulary:
    """The `.tiktoken` vocabulary of a tokenizer.json.

    VocabularyError for one that normalises or merges otherwise, or has other special tokens.
    """
    special = {token.content: token.id for token in found.added}
    ranks = {bytes_of(text): rank for text, rank in found.vocab.items() if special.get(text) != rank}
    if not found.normalizes:
        raise _error(found, "does not normalise text to NFC")
    vocabulary = Vocabulary.from_ranks(ranks, path=found.path)
    merges = [(spelled(left), spelled(right)) for left, right in merge_list(ranks)]
    if found.merges != merges or not (found.ignores_merges or len(merges) == len(ranks) - 256):
        raise _error(found, "its merges are not those that the ids imply")
    for token, token_id in special.items():
        if vocabulary.special_tokens.get(token) != token_id:
            raise _error(found, f"has the special token {token!r:.40} with id {token_id}")
    return vocabulary


def _error(found: HfVocabulary, reason: str) -> VocabularyError:
    return VocabularyError(found.path, reason, hint=_NO_FORM)
