"""The bundled model's tokenizer, for tests that count tokens."""

from __future__ import annotations

from functools import cache

from qwartet import DEMO
from qwartet.models.vocabulary_files import load_tokenizer
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer


@cache
def tokenizer() -> TiktokenTokenizer:
    return load_tokenizer(DEMO)
