"""Text to ids and back with tiktoken, as in the first-generation Qwen tokenizer.

Text is normalised to NFC, cut into pieces by PATTERN and merged by rank. Special tokens in a text are plain text
unless the caller allows them: a user who types <|im_end|> must not end the turn.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, SupportsIndex

import tiktoken

from qwartet.errors import RequestError, SettingError, VocabularyError
from qwartet.tokenizer.long_whitespace import encode_long_whitespace, find_long_whitespace
from qwartet.tokenizer.normalize import nfc
from qwartet.tokenizer.vocabulary import ENDOFTEXT, IM_END, IM_START, SpecialSet, StrPath, Vocabulary

VOCABULARY_FILE = "qwen.tiktoken"

# Published with the tokenizer: cl100k_base's pattern, except that every digit is a separate piece.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

ERROR_HANDLERS = ("strict", "replace", "ignore", "backslashreplace")


class TiktokenTokenizer:
    """A Tokenizer over a `.tiktoken` file; `errors` says how to treat bytes that are not UTF-8."""

    def __init__(self, vocabulary: Vocabulary, errors: str = "replace") -> None:
        self.vocabulary = vocabulary
        self.errors = checked_handler(errors)
        self._build()

    @classmethod
    def load(cls, path: StrPath, extra_vocab_file: StrPath | None = None, errors: str = "replace") -> TiktokenTokenizer:
        """Tokenizer of a `.tiktoken` file, or of a directory that contains one; raises VocabularyError."""
        return cls(Vocabulary.load(find_vocabulary(path), extra_vocab_file), errors)

    def _build(self) -> None:
        self.special_tokens = self.vocabulary.special_tokens
        self.mergeable_ranks = self.vocabulary.mergeable_ranks
        self.eod_id = self.special_tokens[ENDOFTEXT]
        self.im_start_id = self.special_tokens[IM_START]
        self.im_end_id = self.special_tokens[IM_END]
        self._special_ids = frozenset(self.special_tokens.values())
        self.encoding = tiktoken.Encoding(
            "Qwen", pat_str=PATTERN, mergeable_ranks=self.mergeable_ranks, special_tokens=self.special_tokens
        )

    def __getstate__(self) -> dict[str, Any]:
        """The vocabulary alone: tiktoken's compiled encoding cannot be pickled and is rebuilt."""
        return {"vocabulary": self.vocabulary, "errors": self.errors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._build()

    @property
    def turn_ids(self) -> tuple[int, ...]:
        """The ids that end an answer in a conversation."""
        return self.im_end_id, self.im_start_id

    @property
    def num_tokens(self) -> int:
        """One more than the largest id: 151851 for the published vocabulary."""
        return self.encoding.n_vocab

    def encode(
        self, text: str, *, allowed_special: SpecialSet = frozenset(), disallowed_special: SpecialSet = ()
    ) -> list[int]:
        """Ids of a text; raises RequestError, with tiktoken's message, if it contains a disallowed special token."""
        text = nfc(text)
        allowed = set(self.special_tokens) if allowed_special == "all" else set(allowed_special)
        disallowed = set(self.special_tokens) - allowed if disallowed_special == "all" else set(disallowed_special)
        try:
            if find_long_whitespace(text):
                if forbidden := re.search("|".join(map(re.escape, disallowed)) or r"(?!)", text):
                    text = forbidden.group()  # tiktoken rejects it below
                else:
                    parsed = {token: self.special_tokens[token] for token in allowed & self.special_tokens.keys()}
                    return encode_long_whitespace(self.encoding, text, parsed)
            return self.encoding.encode(text, allowed_special=allowed, disallowed_special=disallowed)
        except ValueError as error:
            raise RequestError(str(error)) from error

    def splits_at(self, text: str, place: int) -> bool:
        """Whether text[:place] and text[place:] have the ids of the text; False where that is not certain."""
        return splits_after_line_break(text, place)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False, errors: str | None = None) -> str:
        """Text of ids; `skip_special_tokens` drops the 208 special ids; raises RequestError for an unknown id."""
        ids = list(ids)
        handler = self.errors if errors is None else checked_handler(errors)
        if skip_special_tokens:
            ids = [token_id for token_id in ids if token_id not in self._special_ids]
        try:
            return self.encoding.decode_bytes(ids).decode("utf-8", handler)
        except UnicodeDecodeError as error:
            raise RequestError(f"the ids are not valid UTF-8 text ({error}); use errors='replace'") from error
        except (KeyError, OverflowError, TypeError) as error:
            raise self._bad_id(ids) from error

    def decode_bytes(self, token_id: int) -> bytes:
        """Bytes of one token; for a special token, those of its written form; raises RequestError."""
        try:
            return self.encoding.decode_single_token_bytes(token_id)
        except (KeyError, OverflowError, TypeError) as error:
            raise self._bad_id([token_id]) from error

    def is_special(self, token_id: int) -> bool:
        """Whether an id is one of the 208 special tokens."""
        return token_id in self._special_ids

    @property
    def text_ids(self) -> Collection[int]:
        """The ids of all ranks."""
        return self.mergeable_ranks.values()

    def grammar_tokenizer(self) -> Any:
        """The same vocabulary as llguidance's tokenizer."""
        from llguidance.tiktoken import lltokenizer_from_encoding  # most runs do not need it

        return lltokenizer_from_encoding(self.encoding, eos_token=self.eod_id)

    def has_ids_of(self, other: object) -> bool:
        """Whether the other one has the same vocabulary."""
        return isinstance(other, TiktokenTokenizer) and other.mergeable_ranks == self.mergeable_ranks

    def _bad_id(self, ids: list[int]) -> RequestError:
        known = self._special_ids.union(self.mergeable_ranks.values())
        bad = next(token_id for token_id in ids if not isinstance(token_id, SupportsIndex) or token_id not in known)
        return RequestError(f"{bad!r} is not a token id; ids go from 0 to {self.num_tokens - 1}")


def find_vocabulary(path: StrPath) -> Path:
    """The `.tiktoken` file of a path: itself, or the one in that directory; raises VocabularyError."""
    try:
        if not Path(path).is_dir():
            return Path(path)
        files = sorted(file for file in Path(path).iterdir() if file.suffix == ".tiktoken")
    except OSError as error:
        raise VocabularyError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise VocabularyError(repr(path), f"not a path: {error}") from error
    if Path(path) / VOCABULARY_FILE in files:
        return Path(path) / VOCABULARY_FILE
    if len(files) != 1:
        found = "no .tiktoken file" if not files else f"{len(files)} .tiktoken files, none named {VOCABULARY_FILE},"
        raise VocabularyError(path, f"{found} in this directory", hint="pass the path of the file itself")
    return files[0]


def splits_after_line_break(text: str, place: int) -> bool:
    """Whether a place is after a line break that no whitespace follows, where PATTERN always cuts a text.

    No alternative of it matches a line break and then anything else, none looks back, and NFC joins nothing to a line
    break.
    """
    return 0 < place < len(text) and text[place - 1] in "\r\n" and not text[place].isspace()


def checked_handler(errors: str) -> str:
    """The name of a way to treat bytes that are not UTF-8; SettingError for an unknown one."""
    if errors not in ERROR_HANDLERS:
        raise SettingError(f"errors is {errors!r}; use one of {', '.join(ERROR_HANDLERS)}")
    return errors
