"""Byte-pair encoding learnt from text (Sennrich et al. 2016, on bytes as in GPT-2).

Text is cut into words by the pre-tokenisation pattern; each word starts as its bytes; again and again the most
frequent pair of neighbours becomes one token. Only the words that contain the merged pair are recounted, so
the cost of a merge is the number of those words and not the size of the corpus.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable

import regex

Pair = tuple[int, int]


def byte_order() -> list[bytes]:
    """The 256 single bytes in the published order: printable ones first ("!" is 0), then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return [bytes((byte,)) for byte in printable + others]


def count_words(texts: Iterable[str], pattern: str) -> Counter[bytes]:
    """How often each piece of the pre-tokenisation pattern occurs, as UTF-8; pieces seen once teach nothing.

    The pattern keeps a mark with the letters behind it ("。你好"). A token of both would hide the letters
    where the model looks for them alone, so the mark is cut off here; only a space stays.
    """
    compiled = regex.compile(pattern)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(compiled.findall(text))
    words: Counter[bytes] = Counter()
    for word, count in counts.items():
        if len(word) > 1 and word[1].isalpha() and not (word[0].isalpha() or word[0] == " "):
            word = word[1:]
        words[word.encode()] += count
    return Counter({word: count for word, count in words.items() if count > 1})


class PairTable:
    """The words of a corpus as token ids, with up-to-date counts of every pair of neighbours."""

    def __init__(self, words: Counter[bytes], first_ids: dict[bytes, int]) -> None:
        self._words = [[first_ids[bytes((byte,))] for byte in word] for word in words]
        self._word_counts = list(words.values())
        self._counts: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)
        for index in range(len(self._words)):
            self._count_word(index, 1)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def _count_word(self, index: int, sign: int) -> set[Pair]:
        word, weight = self._words[index], sign * self._word_counts[index]
        pairs = list(itertools.pairwise(word))
        for pair in pairs:
            self._counts[pair] += weight
            self._where[pair].add(index)
        return set(pairs)

    def most_frequent(self) -> tuple[Pair, int]:
        """The pair of the highest count, the lowest ids on a tie; ((0, 0), 0) when none is left."""
        while self._heap:
            negative, pair = heapq.heappop(self._heap)
            if self._counts[pair] == -negative:  # a stale entry is dropped: the pair was pushed again when it changed
                return pair, -negative
        return (0, 0), 0

    def merge(self, pair: Pair, new_id: int) -> None:
        """Replaces `pair` by `new_id` in every word that contains it."""
        changed: set[Pair] = set()
        for index in self._where.pop(pair):
            changed |= self._count_word(index, -1)
            self._words[index] = _replace(self._words[index], pair, new_id)
            changed |= self._count_word(index, 1)
        changed.discard(pair)
        for other in changed:
            if self._counts[other] > 0:
                heapq.heappush(self._heap, (-self._counts[other], other))


def _replace(word: list[int], pair: Pair, new_id: int) -> list[int]:
    merged: list[int] = []
    position = 0
    while position < len(word):
        if position + 1 < len(word) and (word[position], word[position + 1]) == pair:
            merged.append(new_id)
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged


def is_short(token: bytes) -> bool:
    """At most two Chinese characters, or sixteen of ASCII: longer ones are phrases of our templates and not words."""
    return len(token) <= (16 if token.isascii() else 6)


def learn(words: Counter[bytes], num_ranks: int) -> list[bytes]:
    """Up to `num_ranks` tokens in order of rank, the single bytes first.

    Stops early when no pair occurs twice. The same words give the same tokens.
    """
    tokens = byte_order()
    table = PairTable(words, {token: rank for rank, token in enumerate(tokens)})
    known = set(tokens)
    while len(tokens) < num_ranks:
        pair, count = table.most_frequent()
        if count < 2:
            break
        token = tokens[pair[0]] + tokens[pair[1]]
        if not is_short(token) or token in known:
            continue
        known.add(token)
        tokens.append(token)
        table.merge(pair, len(tokens) - 1)
    return tokens
