"""The byte-level alphabet of GPT-2: a printable character for each byte, so that tokens of bytes fit into JSON."""

from __future__ import annotations

# The bytes that stand for themselves; the others follow from U+0100.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_ALPHABET = tuple(chr(byte) if byte in _PRINTABLE else chr(0x100 + _OTHERS.index(byte)) for byte in range(256))
_LETTERS = frozenset(_ALPHABET)
_TO_LATIN = {ord(character): byte for byte, character in enumerate(_ALPHABET)}


def byte_alphabet() -> tuple[str, ...]:
    """The character that stands for each byte."""
    return _ALPHABET


def spelled(token: bytes) -> str:
    """A token in this alphabet."""
    return "".join(_ALPHABET[byte] for byte in token)


def is_spelled(text: str) -> bool:
    """Whether a text is in this alphabet."""
    return _LETTERS.issuperset(text)


def bytes_of(text: str) -> bytes:
    """The bytes of a token in this alphabet; ValueError for a text with other characters."""
    if not is_spelled(text):
        raise ValueError(f"{text!r:.60} has a character outside the byte-level alphabet")
    return text.translate(_TO_LATIN).encode("latin-1")
