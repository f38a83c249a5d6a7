"""Bytes per token by language: counted right, and nothing is downloaded for it."""

from __future__ import annotations

import ast
import base64
import hashlib

import pytest

from qwartet.card import compression
from qwartet.card.compression import OTHERS, cached_encoding, samples
from tests.evaluate.bundled import tokenizer


def test_every_language_has_its_text_and_the_program_is_one() -> None:
    texts = samples()
    assert len(texts) == 19 and len(set(texts.values())) == 19
    ast.parse(texts["code"])


def test_tokens_and_bytes_are_those_of_the_sample() -> None:
    found = compression.compression(tokenizer())
    for language, text in samples().items():
        assert found[language]["bytes"] == len(text.encode())
        assert found[language]["this"] == len(tokenizer().encode(text))


@pytest.mark.parametrize("name", OTHERS)
def test_a_vocabulary_that_is_not_in_the_cache_is_left_out(name: str, tmp_path, monkeypatch) -> None:
    import tiktoken.load

    def download(*_arguments: object) -> bytes:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(tiktoken.load, "read_file", download)
    assert cached_encoding(name, {"TIKTOKEN_CACHE_DIR": str(tmp_path)}) is None
    assert cached_encoding(name, {"TIKTOKEN_CACHE_DIR": ""}) is None
    file = tmp_path / hashlib.sha1(OTHERS[name][0].encode()).hexdigest()
    file.write_bytes(b"not the file")
    assert cached_encoding(name, {"TIKTOKEN_CACHE_DIR": str(tmp_path)}) is None
    assert file.read_bytes() == b"not the file"


def test_a_vocabulary_in_the_cache_is_compared(tmp_path, monkeypatch) -> None:
    """With a file of single bytes in place of the published one: a token for each byte."""
    import tiktoken
    import tiktoken_ext.openai_public as public

    content = b"".join(base64.b64encode(bytes([rank])) + f" {rank}\n".encode() for rank in range(256))
    address, sha256 = "https://localhost/bytes.tiktoken", hashlib.sha256(content).hexdigest()
    (tmp_path / hashlib.sha1(address.encode()).hexdigest()).write_bytes(content)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compression, "OTHERS", {"bytes_base": (address, sha256)})

    def bytes_base() -> dict[str, object]:
        ranks = public.load_tiktoken_bpe(address, expected_hash=sha256)
        return {"name": "bytes_base", "pat_str": ".+|\n", "mergeable_ranks": ranks, "special_tokens": {}}

    assert tiktoken.list_encoding_names()  # fills its registry of constructors
    monkeypatch.setitem(tiktoken.registry.ENCODING_CONSTRUCTORS, "bytes_base", bytes_base)
    found = compression.compression(tokenizer())
    assert all(counts["bytes_base"] == counts["bytes"] for counts in found.values())
