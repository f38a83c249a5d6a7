"""The vocabulary of a tokenizer.json, or of vocab.json and merges.txt, checked before anything is built on it.

    model.vocab      {"!": 0, ..., "\\u0120the": 279}   tokens in the byte-level alphabet, with their ids
    model.merges     [["\\u0120", "t"], ...]            pairs, the first merged first; older files write "\\u0120 t"
    added_tokens     [{"id": 151644, "content": "<|im_start|>", "special": true, ...}, ...]
    normalizer       NFC or none
    pre_tokenizer    the published pattern, then the byte-level alphabet

These are the parts that decide about ids; whatever else the file contains decides only about what other libraries add
around a text. The file is untrusted: another kind of model, pattern or part is a `VocabularyError`, not a guess, and no
pattern of a file is ever run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwartet.errors import CheckpointWarning, VocabularyError
from qwartet.tokenizer.byte_alphabet import byte_alphabet, is_spelled
from qwartet.tokenizer.tiktoken_tokenizer import PATTERN
from qwartet.tokenizer.vocabulary import StrPath

MAX_TOKENS = 2**22  # as many as an embedding may have rows
MAX_ADDED_TOKENS = 4096
MAX_TOKEN_CHARS = 4096

_SURROGATE = re.compile("[\ud800-\udfff]")
_AGAIN = "download the file again from the model's source"
_OTHER = "only the byte-level BPE tokenizers of Qwen models are read"


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text as it is written; a special one is not part of what the model says."""

    id: int
    content: str
    special: bool
    normalized: bool  # found in the text after its normalisation, not before


@dataclass(frozen=True)
class HfVocabulary:
    """The parts of a tokenizer.json that decide about ids; `path` names it in errors."""

    path: str
    vocab: dict[str, int]  # in the byte-level alphabet
    merges: list[tuple[str, str]]
    added: tuple[AddedToken, ...]  # by id
    normalizes: bool = True  # to NFC
    ignores_merges: bool = False  # a piece that is a token is one, whatever the merges are

    def __post_init__(self) -> None:
        _check_vocab(self.path, self.vocab)
        _check_merges(self.path, self.vocab, self.merges)
        _check_added(self.path, self.vocab, self.added)
        if not self.ignores_merges:
            _tell_unmerged(self.path, self.vocab, self.merges, self.added)

    @property
    def num_tokens(self) -> int:
        """One more than the largest id."""
        return max(*self.vocab.values(), *(token.id for token in self.added)) + 1

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: StrPath, more: Sequence[AddedToken] = ()) -> HfVocabulary:
        """Vocabulary of the content of a tokenizer.json and the added tokens of other files; VocabularyError."""
        model = _object(content, "model", path)
        if model.get("type", "BPE") != "BPE":
            raise _unknown(path, f"model.type is {model.get('type')!r:.40}")
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
            if model.get(key) not in (None, 0, "", False):
                raise _unknown(path, f"model.{key} is {model[key]!r:.40}")
        _check_pre_tokenizer(content.get("pre_tokenizer"), path)
        decoder = content.get("decoder")
        if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
            raise _unknown(path, f"decoder is {_shown(decoder)}")
        own = tuple(added_token(value, path) for value in _list(content, "added_tokens", path))
        return cls(
            str(path),
            _object(model, "vocab", path),
            [_merge(value, number, path) for number, value in enumerate(_list(model, "merges", path), 1)],
            with_added(own, more, path),
            _normalizes(content.get("normalizer"), path),
            bool(_flag(model, "ignore_merges", path)),
        )

    @classmethod
    def from_merges(
        cls, vocab: dict[str, int], vocab_path: StrPath, merges: str, path: StrPath, more: Sequence[AddedToken] = ()
    ) -> HfVocabulary:
        """Vocabulary of a vocab.json and the text of a merges.txt, with their paths; VocabularyError."""
        _check_vocab(str(vocab_path), vocab)
        lines = merges.splitlines()
        start = 1 if lines[:1] and lines[0].startswith("#version") else 0
        pairs = [_merge(line, number, path) for number, line in enumerate(lines[start:], start + 1) if line]
        return cls(str(path), vocab, pairs, with_added((), more, path))


def added_token(value: Any, path: StrPath, token_id: Any = None) -> AddedToken:
    """One entry of added_tokens, or the value of an entry of added_tokens_decoder with its id; VocabularyError."""
    if not isinstance(value, dict):
        raise VocabularyError(path, f"an added token is {_shown(value)}; it must be an object", hint=_AGAIN)
    token_id = value.get("id") if token_id is None else token_id
    content = value.get("content")
    if not _is_id(token_id) or not isinstance(content, str):
        reason = f"an added token has the id {token_id!r:.40} and the content {content!r:.40}"
        raise VocabularyError(path, reason, hint=_AGAIN)
    flags = {key: _flag(value, key, path) for key in ("special", "normalized", "lstrip", "rstrip", "single_word")}
    if unknown := next((key for key in ("lstrip", "rstrip", "single_word") if flags[key]), None):
        raise _unknown(path, f"the added token {content!r:.40} sets {unknown}")
    is_special = bool(flags["special"])
    return AddedToken(
        token_id, content, is_special, not is_special if flags["normalized"] is None else flags["normalized"]
    )


def with_added(own: Sequence[AddedToken], more: Sequence[AddedToken], path: StrPath) -> tuple[AddedToken, ...]:
    """All added tokens by id; of one that several files name, the first is kept, which is special if any says so.

    VocabularyError where two tokens claim one id, or one token two.
    """
    by_id: dict[int, AddedToken] = {}
    ids: dict[str, int] = {}
    for token in (*own, *more):
        before = by_id.get(token.id, token)
        if before.content != token.content:
            reason = f"id {token.id} is that of {before.content!r:.40} and of {token.content!r:.40}"
            raise VocabularyError(path, reason, hint="the files of the tokenizer belong to different models")
        if ids.setdefault(token.content, token.id) != token.id:
            reason = f"the added token {token.content!r:.40} has the ids {ids[token.content]} and {token.id}"
            raise VocabularyError(path, reason, hint="the files of the tokenizer belong to different models")
        is_special = before.special or token.special
        by_id[token.id] = AddedToken(before.id, before.content, is_special, before.normalized)
    return tuple(by_id[token_id] for token_id in sorted(by_id))


def _check_vocab(path: str, vocab: dict[str, int]) -> None:
    if not vocab:
        raise VocabularyError(path, "the vocabulary is empty", hint=_AGAIN)
    if len(vocab) > MAX_TOKENS:
        raise VocabularyError(path, f"has {len(vocab)} tokens; at most {MAX_TOKENS} are allowed")
    wrong = next((token for token, token_id in vocab.items() if not _is_id(token_id)), None)
    if wrong is not None:
        reason = f"token {wrong!r:.40} has the id {vocab[wrong]!r:.40}; ids go from 0 to {MAX_TOKENS - 1}"
        raise VocabularyError(path, reason, hint=_AGAIN)
    if len(set(vocab.values())) < len(vocab):
        seen: dict[int, str] = {}
        for token, token_id in vocab.items():
            if seen.setdefault(token_id, token) != token:
                reason = f"tokens {seen[token_id]!r:.40} and {token!r:.40} both have the id {token_id}"
                raise VocabularyError(path, reason, hint=_AGAIN)
    if missing := [byte for byte, letter in enumerate(byte_alphabet()) if letter not in vocab]:
        reason = f"{len(missing)} of the 256 single bytes are not in the vocabulary, first 0x{missing[0]:02x}"
        raise VocabularyError(path, reason, hint=_OTHER)


def _check_merges(path: str, vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
    if len(merges) > MAX_TOKENS:
        raise VocabularyError(path, f"has {len(merges)} merges; at most {MAX_TOKENS} are allowed")
    for number, (left, right) in enumerate(merges, 1):
        if absent := next((token for token in (left, right, left + right) if token not in vocab), None):
            reason = f"merge {number} is of {left!r:.40} and {right!r:.40}, but {absent!r:.60} is not in the vocabulary"
            raise VocabularyError(path, reason, hint=_AGAIN)
    if len(set(merges)) < len(merges):
        raise VocabularyError(path, "a merge is listed twice", hint=_AGAIN)


def _tell_unmerged(
    path: str, vocab: dict[str, int], merges: list[tuple[str, str]], added: tuple[AddedToken, ...]
) -> None:
    """CheckpointWarning for tokens that no text becomes: merges that are cut short give other ids, and no error."""
    made = {left + right for left, right in merges}.union(token.content for token in added)
    if unmerged := [token for token in vocab if len(token) > 1 and token not in made]:
        reason = f"no merge makes {len(unmerged)} of the {len(vocab)} tokens, such as {unmerged[0]!r:.40}"
        warnings.warn(f"{path}: {reason}; if merges are missing, {_AGAIN}", CheckpointWarning, stacklevel=5)


def _check_added(path: str, vocab: dict[str, int], added: tuple[AddedToken, ...]) -> None:
    if len(added) > MAX_ADDED_TOKENS:
        raise VocabularyError(path, f"has {len(added)} added tokens; at most {MAX_ADDED_TOKENS} are read")
    tokens = {token_id: token for token, token_id in vocab.items()}
    for token in added:
        if not 0 < len(token.content) <= MAX_TOKEN_CHARS:
            reason = f"the added token {token.id} has {len(token.content)} characters"
            raise VocabularyError(path, f"{reason}; 1 to {MAX_TOKEN_CHARS} are allowed", hint=_AGAIN)
        if _SURROGATE.search(token.content):
            raise VocabularyError(path, f"the added token {token.content!r:.40} is not valid Unicode", hint=_AGAIN)
        if tokens.get(token.id, token.content) != token.content or vocab.get(token.content, token.id) != token.id:
            reason = f"the added token {token.content!r:.40} has the id {token.id}, and the vocabulary says otherwise"
            raise VocabularyError(path, reason, hint=_AGAIN)
    contents = {token.content for token in added}
    for token_text in vocab:
        if len(token_text) > MAX_TOKEN_CHARS or not (is_spelled(token_text) or token_text in contents):
            raise _unknown(path, f"the token {token_text!r:.40} is not written in the byte-level alphabet")


def _check_pre_tokenizer(given: Any, path: StrPath) -> None:
    """The published pattern, then bytes: nothing else, because a pattern of an untrusted file could take hours."""
    steps = given.get("pretokenizers") if isinstance(given, dict) and given.get("type") == "Sequence" else None
    if not isinstance(steps, list) or [_type(step) for step in steps] != ["Split", "ByteLevel"]:
        raise _unknown(path, f"pre_tokenizer is {_shown(given)}")
    split, byte_level = steps
    pattern = split.get("pattern")
    if pattern != {"Regex": PATTERN}:
        raise _unknown(path, f"the pattern of pre_tokenizer is {_shown(pattern)}")
    if split.get("behavior") != "Isolated" or _flag(split, "invert", path):
        raise _unknown(
            path, f"pre_tokenizer splits with {split.get('behavior')!r:.40}, invert {split.get('invert')!r:.9}"
        )
    if _flag(byte_level, "use_regex", path) is not False or _flag(byte_level, "add_prefix_space", path):
        raise _unknown(path, "pre_tokenizer's ByteLevel sets use_regex or add_prefix_space")


def _normalizes(given: Any, path: StrPath) -> bool:
    steps = given.get("normalizers") if _type(given) == "Sequence" else [] if given is None else [given]
    if not isinstance(steps, list) or any(_type(step) != "NFC" for step in steps):
        raise _unknown(path, f"normalizer is {_shown(given)}")
    return bool(steps)


def _merge(value: Any, number: int, path: StrPath) -> tuple[str, str]:
    parts = value.split(" ") if isinstance(value, str) else value
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise VocabularyError(path, f"merge {number} is {_shown(value)}; it must be two tokens", hint=_AGAIN)
    return parts[0], parts[1]


def _flag(values: Mapping[str, Any], key: str, path: StrPath) -> bool | None:
    value = values.get(key)
    if not isinstance(value, bool | None):
        raise VocabularyError(path, f"{key} is {value!r:.40}; it must be true or false", hint=_AGAIN)
    return value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_TOKENS


def _type(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else None


def _object(content: Mapping[str, Any], key: str, path: StrPath) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise VocabularyError(path, f"{key} is {_shown(value)}; it must be an object", hint=_AGAIN)
    return value


def _list(content: Mapping[str, Any], key: str, path: StrPath) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise VocabularyError(path, f"{key} is {_shown(value)}; it must be a list", hint=_AGAIN)
    return value


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.160}"


def _unknown(path: StrPath, reason: str) -> VocabularyError:
    return VocabularyError(path, reason, hint=_OTHER)
