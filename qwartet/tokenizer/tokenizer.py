"""The interface of a tokenizer, independent of its file format."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from qwartet.tokenizer.vocabulary import SpecialSet as SpecialSet


class Tokenizer(Protocol):
    """Text to ids and back. Special tokens in a text are plain text unless the caller allows them.

    `special_tokens` maps their written forms to ids; among them, `eod_id` ends a text, `im_start_id` and `im_end_id`
    open and close a turn of a conversation in ChatML.
    """

    @property
    def special_tokens(self) -> Mapping[str, int]: ...
    @property
    def eod_id(self) -> int: ...
    @property
    def im_start_id(self) -> int: ...
    @property
    def im_end_id(self) -> int: ...
    @property
    def turn_ids(self) -> Collection[int]:
        """The ids that end an answer in a conversation."""
        ...

    @property
    def num_tokens(self) -> int:
        """One more than the largest id."""
        ...

    def encode(
        self, text: str, *, allowed_special: SpecialSet = frozenset(), disallowed_special: SpecialSet = ()
    ) -> list[int]:
        """Ids of a text; RequestError if it contains a disallowed special token."""
        ...

    def splits_at(self, text: str, place: int) -> bool:
        """Whether text[:place] and text[place:] have the ids of the text; False where that is not certain."""
        ...

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False, errors: str | None = None) -> str:
        """Text of ids; RequestError for an unknown id. `errors`: how to treat bytes that are not UTF-8."""
        ...

    def decode_bytes(self, token_id: int) -> bytes:
        """Bytes of one token; for a special token, those of its written form; RequestError for an unknown id.

        A character may be split over several tokens: tokenizer/stream.py joins them.
        """
        ...

    def is_special(self, token_id: int) -> bool:
        """Whether an id is a special token's."""
        ...

    @property
    def text_ids(self) -> Collection[int]:
        """The ids of ordinary text tokens."""
        ...

    def grammar_tokenizer(self) -> Any:
        """The same vocabulary as llguidance's LLTokenizer, which takes most of a second to build."""
        ...

    def has_ids_of(self, other: Tokenizer) -> bool:
        """Whether every id means the same in both, so that one model can draft for another."""
        ...
