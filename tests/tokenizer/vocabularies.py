"""Vocabularies to test with: one small enough to compute ids by hand, and the published one."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from qwartet.tokenizer.vocabulary import Vocabulary
from tests.golden_data import real_vocabulary

MERGES = (b"ab", b"cd", b"abcd", b"  ", b"    ", b"\n\n", b"\n ", b" \n", b"!\n", "你".encode()[:2], "你".encode())
SMALL_RANKS = {bytes([byte]): byte for byte in range(256)} | {token: 256 + i for i, token in enumerate(MERGES)}
SMALL_N = len(SMALL_RANKS)


def tiktoken_line(token: bytes, rank: int) -> bytes:
    """One line of a `.tiktoken` file."""
    return base64.b64encode(token) + b" %d\n" % rank


def small_lines() -> list[bytes]:
    """Lines of the small vocabulary: the id of a byte is the byte, then the MERGES."""
    return [tiktoken_line(token, rank) for token, rank in SMALL_RANKS.items()]


def write_small_vocabulary(path: Path) -> Path:
    """The small vocabulary as a file."""
    path.write_bytes(b"".join(small_lines()))
    return path


@cache
def small_tokenizer() -> TiktokenTokenizer:
    """Tokenizer of the small vocabulary."""
    return TiktokenTokenizer(Vocabulary.from_ranks(SMALL_RANKS))


@cache
def published_tokenizer() -> TiktokenTokenizer:
    """Tokenizer of the published vocabulary; skips the test where there is none."""
    return TiktokenTokenizer.load(real_vocabulary())
