"""Hay of a number of tokens, and a needle put into it at the end of a sentence."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache

from qwartet.tokenizer.tokenizer import Tokenizer

_SENTENCE_END = re.compile(r"""[.!?]+["'”’)\]]*(?=\s|$)|[。！？]+[”’」』）]*""")
_CJK = "\u2e80"  # from here on, texts have no spaces between sentences


class Haystack:
    """A text of which the beginning is used, as long as is asked for."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._tokenizer = tokenizer
        self._ids = tokenizer.encode(text)
        self._whole_sentences = lru_cache(4)(self._find_sentences)  # the same for every depth

    def __len__(self) -> int:
        return len(self._ids)

    def with_needle(self, needle: str, num_tokens: int, depth: int) -> str | None:
        """At most so many tokens of whole sentences, with the needle behind the last that ends before the depth.

        `depth` is per cent of the hay's tokens. None where the needle and one sentence are longer than that.
        """
        num_hay = num_tokens - len(self._tokenizer.encode(needle))
        while num_hay > 0:
            hay, ends, num_kept = self._whole_sentences(num_hay)
            if not ends:
                return None
            before = bisect_right(ends, len(self._text(num_kept * depth // 100)))
            place = ends[before - 1] if before else 0
            context = _joined(_joined(hay[:place], needle), hay[place:])
            excess = len(self._tokenizer.encode(context)) - num_tokens
            if excess <= 0:
                return context
            num_hay -= excess  # tokens differ where texts meet
        return None

    def _find_sentences(self, num_tokens: int) -> tuple[str, list[int], int]:
        """The whole sentences of so many tokens, where each ends, and how many tokens they are."""
        text = self._text(num_tokens)
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        hay = text[: ends[-1]] if ends else ""
        return hay, ends, len(self._tokenizer.encode(hay))

    def _text(self, num_tokens: int) -> str:
        """The beginning, without the bytes of a character that goes on in the next token."""
        return self._tokenizer.decode(self._ids[:num_tokens], errors="ignore")


def _joined(left: str, right: str) -> str:
    no_space = not left or not right or left[-1].isspace() or right[0].isspace() or left[-1] >= _CJK
    return left + ("" if no_space else " ") + right
