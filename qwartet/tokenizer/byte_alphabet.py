"""The byte-level alphabet of GPT-2: a printable character for each byte, so that tokens of bytes fit into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

# The bytes that stand for themselves; the others follow from U+0100.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


@cache
def byte_alphabet() -> tuple[str, ...]:
    """The character that stands for each byte."""
    others = [byte for byte in range(256) if byte not in _PRINTABLE]
    return tuple(chr(byte) if byte in _PRINTABLE else chr(0x100 + others.index(byte)) for byte in range(256))


def spelled(token: bytes) -> str:
    """A token in this alphabet."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in token)


def bytes_of(text: str) -> bytes:
    """The bytes of a token in this alphabet; ValueError for a text with other characters."""
    try:
        return bytes(_bytes()[character] for character in text)
    except KeyError as error:
        raise ValueError(f"{text!r:.60} has a character outside the byte-level alphabet") from error


@cache
def _bytes() -> Mapping[str, int]:
    return {character: byte for byte, character in enumerate(byte_alphabet())}
