"""How many bytes of text a token of a vocabulary stands for, by language, beside OpenAI's vocabularies.

The text is the same paragraph in each language, and a function in Python (samples.json, written for this purpose).
OpenAI's vocabularies are used where tiktoken has them in its cache; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from qwartet.tokenizer.tokenizer import Tokenizer

# Encoding -> its file's address and SHA-256, as in tiktoken_ext/openai_public.py of tiktoken 0.14.
OTHERS = {
    "cl100k_base": (
        "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
    "o200k_base": (
        "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
}


@cache
def samples() -> dict[str, str]:
    """The text of each language by its code; "code" is a program."""
    found: dict[str, str] = json.loads(Path(__file__).with_name("samples.json").read_text(encoding="utf-8"))
    return found


def compression(tokenizer: Tokenizer) -> dict[str, dict[str, int]]:
    """For each language the bytes of its sample and the tokens it takes, by vocabulary; this one's is "this"."""
    vocabularies: dict[str, Callable[[str], list[int]]] = {"this": tokenizer.encode}
    for name in OTHERS:
        if (encode := cached_encoding(name, os.environ)) is not None:
            vocabularies[name] = encode
    return {
        language: {
            "bytes": len(text.encode()),
            **{name: len(encode(text)) for name, encode in vocabularies.items()},
        }
        for language, text in samples().items()
    }


def cached_encoding(name: str, environment: Mapping[str, str]) -> Callable[[str], list[int]] | None:
    """The encoder of one of OTHERS; None where tiktoken's cache does not have its file, whole."""
    import tiktoken

    address, sha256 = OTHERS[name]
    default = str(Path(tempfile.gettempdir(), "data-gym-cache"))
    directory = environment.get("TIKTOKEN_CACHE_DIR", environment.get("DATA_GYM_CACHE_DIR", default))
    file = Path(directory, hashlib.sha1(address.encode()).hexdigest())
    # tiktoken would download what is missing or not whole.
    if not directory or not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        return None
    return tiktoken.get_encoding(name).encode_ordinary
