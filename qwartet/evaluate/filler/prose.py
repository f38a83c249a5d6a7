"""Sentences put together from the words of a language, and paragraphs of them."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Literal, TypeVar

from qwartet.evaluate.filler import chinese, english
from qwartet.tokenizer.tokenizer import Tokenizer

Language = Literal["en", "zh"]
_T = TypeVar("_T")

_WORDS: dict[str, tuple[Sequence[str], Mapping[str, Sequence[str]], str]] = {
    "en": (english.SENTENCES, english.WORDS, " "),
    "zh": (chinese.SENTENCES, chinese.WORDS, ""),
}
_SENTENCES_OF_A_PARAGRAPH = (4, 8)


def paragraphs(language: Language, seed: int) -> Iterator[str]:
    """Paragraphs without end; no sentence comes twice, none holds a digit."""
    sentences, words, space = _WORDS[language]
    draw = Random(seed).random  # the one method whose numbers Python promises to keep
    seen: set[str] = set()
    while True:
        paragraph: list[str] = []
        length = _pick(range(*_SENTENCES_OF_A_PARAGRAPH), draw())
        while len(paragraph) < length:
            sentence = _sentence(_pick(sentences, draw()), words, draw)
            if sentence not in seen:
                seen.add(sentence)
                paragraph.append(sentence)
        yield space.join(paragraph)


def prose(language: Language, seed: int, num_tokens: int, tokenizer: Tokenizer) -> str:
    """Whole paragraphs of at least so many tokens."""
    found, count = [], 0
    for paragraph in paragraphs(language, seed):
        found.append(paragraph)
        count += len(tokenizer.encode(paragraph))
        if count >= num_tokens:
            return "\n".join(found)
    raise AssertionError("paragraphs never end")


def _sentence(pattern: str, words: Mapping[str, Sequence[str]], draw: Callable[[], float]) -> str:
    used: list[str] = []
    parts: list[str] = []
    for text, field, _, _ in string.Formatter().parse(pattern):
        parts.append(text)
        if field is not None:
            word = ""
            while not word or word in used:
                word = _pick(words[field.rstrip("2")], draw())
            used.append(word)
            parts.append(word)
    sentence = "".join(parts)
    return sentence[0].upper() + sentence[1:]


def _pick(choices: Sequence[_T], at: float) -> _T:
    return choices[int(at * len(choices))]
