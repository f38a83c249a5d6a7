"""Where the tokenizer's pattern cuts a text: what is in different pieces never becomes one token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import tiktoken

from qwartet.tokenizer.tiktoken_tokenizer import PATTERN


def pieces_of(text: str) -> Iterator[str]:
    """The pieces of a text, in order; each costs a pass over the rest of the text, so this is for words."""
    rest = text.encode()
    while rest:
        size = len(_first_piece().encode_ordinary(rest.decode()))
        yield rest[:size].decode()
        rest = rest[size:]


@cache
def _first_piece() -> tiktoken.Encoding:
    """An encoding that gives an id for each byte of a text's first piece, and none for what follows.

    It asks tiktoken's own matcher: Python's Unicode tables and white space differ from it.
    """
    single_bytes = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding("first", pat_str=rf"\A(?:{PATTERN})", mergeable_ranks=single_bytes, special_tokens={})
