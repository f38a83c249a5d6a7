"""The byte-level alphabet of GPT-2, in which tokenizer.json and vocab.json write tokens: a character for each byte."""

from __future__ import annotations

# The bytes that stand for themselves; the others follow from U+0100.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def byte_alphabet() -> list[str]:
    """The character that stands for each byte."""
    others = [byte for byte in range(256) if byte not in _PRINTABLE]
    return [chr(byte) if byte in _PRINTABLE else chr(0x100 + others.index(byte)) for byte in range(256)]


# Characters of the alphabet to those of the same bytes in Latin-1; nothing else is changed.
_TO_LATIN = {ord(character): byte for byte, character in enumerate(byte_alphabet())}
_LETTERS = frozenset(byte_alphabet())


def bytes_of(token: str) -> bytes | None:
    """The bytes that a token stands for; None if it is not written in the alphabet."""
    return token.translate(_TO_LATIN).encode("latin-1") if _LETTERS.issuperset(token) else None
