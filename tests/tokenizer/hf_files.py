"""Tokenizer files in the form of Qwen2 and Qwen3, made from vocabularies in the form of the first generation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from qwartet import DEMO
from qwartet.tokenizer.byte_alphabet import byte_alphabet
from qwartet.tokenizer.hf_tokenizer import HfTokenizer, NamedTokens
from qwartet.tokenizer.hf_vocabulary import HfVocabulary
from qwartet.tokenizer.templates.template import ChatTemplate
from qwartet.tokenizer.tiktoken_tokenizer import PATTERN
from qwartet.tokenizer.vocabulary import Vocabulary
from tests.tokenizer.vocabularies import SMALL_RANKS

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN_ADDED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
NAMED = NamedTokens(eos="<|im_end|>", pad="<|endoftext|>")


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merge that makes each token, by rank: of the two parts that byte-pair encoding leaves of it."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[place : place + 1] for place in range(len(token))]
        while len(parts) > 2:
            found = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            first = found.index(min(found))
            if found[first] >= rank:
                break
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def written(token: bytes) -> str:
    """A token in the byte-level alphabet."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in token)


def tokenizer_json(ranks: Mapping[bytes, int], added: Sequence[str] = (*SPECIAL, *PLAIN_ADDED)) -> dict[str, Any]:
    """The content of a tokenizer.json with these ranks; added tokens follow them, as in the published files."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": len(ranks) + number, "content": content, **flags, "special": content.startswith("<|")}
            for number, content in enumerate(added)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {written(token): rank for token, rank in ranks.items()},
            "merges": [[written(left), written(right)] for left, right in merges_of(ranks)],
        },
    }


@cache
def small_content() -> str:
    """JSON of a tokenizer.json with the small vocabulary; parse it, so that each test has its own."""
    return json.dumps(tokenizer_json(SMALL_RANKS))


@cache
def demo_content() -> str:
    """JSON of a tokenizer.json with the vocabulary of the bundled model."""
    return json.dumps(tokenizer_json(Vocabulary.load(DEMO / "qwen.tiktoken").mergeable_ranks))


def hf_tokenizer(content: str, template: str | None = None) -> HfTokenizer:
    """The tokenizer of a tokenizer.json, with a chat template."""
    vocabulary = HfVocabulary.from_json(json.loads(content), "tokenizer.json")
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    chat_template = None if template is None else ChatTemplate(template, "chat_template.jinja", tokens)
    return HfTokenizer(vocabulary, NAMED, chat_template)


@cache
def demo_hf_tokenizer() -> HfTokenizer:
    """The tokenizer of `demo_content`."""
    return hf_tokenizer(demo_content())


def write_tokenizer(directory: Path, content: str, template: str | None = None, **settings: Any) -> Path:
    """Writes tokenizer.json and tokenizer_config.json into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(content, encoding="utf-8")
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
    whole = {**named, **({} if template is None else {"chat_template": template}), **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(whole), encoding="utf-8")
    return directory
