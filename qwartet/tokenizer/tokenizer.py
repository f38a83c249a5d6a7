"""What everything above needs of a tokenizer, whatever file it was read from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from qwartet.tokenizer.vocabulary import SpecialSet as SpecialSet
from qwartet.tokenizer.vocabulary import StrPath


class Tokenizer(Protocol):
    """Text to ids and back. Special tokens in a text are plain text unless the caller allows them.

    `special_tokens` maps their written forms to ids; of these `eod_id` ends a text, `im_start_id` and `im_end_id` open
    and close a turn of a conversation.
    """

    @classmethod
    def load(cls, path: StrPath) -> Tokenizer:
        """The tokenizer of a vocabulary file, or of the one in a directory; raises VocabularyError."""
        return TiktokenTokenizer.load(path)

    @property
    def special_tokens(self) -> Mapping[str, int]: ...
    @property
    def eod_id(self) -> int: ...
    @property
    def im_start_id(self) -> int: ...
    @property
    def im_end_id(self) -> int: ...
    @property
    def num_tokens(self) -> int:
        """One more than the largest id."""
        ...

    def encode(
        self, text: str, *, allowed_special: SpecialSet = frozenset(), disallowed_special: SpecialSet = ()
    ) -> list[int]:
        """Ids of a text; RequestError where it holds a disallowed special token."""
        ...

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False, errors: str | None = None) -> str:
        """Text of ids; RequestError for an id of no token. `errors`: what happens to bytes that are not UTF-8."""
        ...

    def decode_bytes(self, token_id: int) -> bytes:
        """Bytes of one token, for a special token those of its written form; RequestError for an id of none.

        Pieces of a character may lie in several tokens: tokenizer/stream.py puts them together.
        """
        ...

    def is_special(self, token_id: int) -> bool:
        """Whether an id is that of a special token."""
        ...

    @property
    def text_ids(self) -> Collection[int]:
        """The ids of tokens that are text and no special ones."""
        ...

    def grammar_tokenizer(self) -> Any:
        """The same vocabulary as llguidance takes it: its LLTokenizer, which takes most of a second to build."""
        ...

    def has_ids_of(self, other: Tokenizer) -> bool:
        """Whether every id means the same to both, so that one model may draft for another."""
        ...
