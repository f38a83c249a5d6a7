"""Learns new tokens from words and their frequencies by byte-pair encoding, on top of a vocabulary.

    我 | 是一 | 只 | 猫   20           words that are not tokens yet, as the pieces that the tokenizer gives
            一只 | 猫  100
    一只猫 100, 只猫 20, 是一只 20, 我是一 20      a candidate joins two neighbours; it counts as often as they occur

The most frequent candidate becomes a token, and so on until each word is one piece. Among equally frequent ones, the
order is (characters, bytes, text). These are the rules of the original's `add_merges.py`, and the tokens are the same.
At every step, the pieces are those of the tokenizer with the tokens learned so far; only a vocabulary with tokens that
no merges lead to, which the published one has not, makes a difference: the original would learn such a token again.

Counts are updated, not taken anew: a token costs a visit to the words that it occurs in. Words of P pieces in total, of
at most L pieces each, take O(P (L + log P)) time and O(P) memory.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise

from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer

OnMerged = Callable[[int, int], None]
"""Called with the number of merges done in all words, and of all that there are to do."""


class MergeLearner:
    """An iterator over the new tokens, in the order of their ids; it may be stopped after any of them.

    `counts` has the frequency, at least 1, of each word: text in NFC that the tokenizer's pattern does not cut.
    """

    def __init__(
        self, tokenizer: TiktokenTokenizer, counts: Mapping[str, int], on_merged: OnMerged | None = None
    ) -> None:
        self._ranks = dict(tokenizer.mergeable_ranks)
        self._next_rank = tokenizer.num_tokens
        self._frequencies = list(counts.values())
        self._pieces = [_pieces(tokenizer, word) for word in counts]
        self._counts: defaultdict[bytes, int] = defaultdict(int)  # of the candidates
        self._words: defaultdict[bytes, set[int]] = defaultdict(set)  # that a candidate is in, or was in
        self._heap: list[tuple[int, int, int, str, bytes]] = []
        self._count(range(len(self._pieces)), {})
        self._on_merged = on_merged
        self._total = self._left = sum(len(pieces) - 1 for pieces in self._pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = self._most_frequent()
        self._ranks[token] = self._next_rank
        self._next_rank += 1
        changed = self._words.pop(token)
        before = {index: self._pieces[index] for index in changed}
        for index, pieces in before.items():
            self._pieces[index] = _merged(pieces, self._ranks)
            self._left -= len(pieces) - len(self._pieces[index])
        self._count(changed, before)
        if self._on_merged is not None:
            self._on_merged(self._total - self._left, self._total)
        return token

    @property
    def num_unfinished(self) -> int:
        """How many words are not a single token yet."""
        return sum(len(pieces) > 1 for pieces in self._pieces)

    def _count(self, changed: Iterable[int], before: Mapping[int, list[bytes]]) -> None:
        """Counts the candidates of changed words, which had other pieces `before`."""
        differences: defaultdict[bytes, int] = defaultdict(int)
        for index in changed:
            for left, right in pairwise(before.get(index, ())):
                differences[left + right] -= self._frequencies[index]
            for left, right in pairwise(self._pieces[index]):
                differences[left + right] += self._frequencies[index]
                self._words[left + right].add(index)
        for candidate, difference in differences.items():
            if not difference:
                continue
            self._counts[candidate] += difference
            if count := self._counts[candidate]:
                text = candidate.decode("utf-8", "replace")
                heapq.heappush(self._heap, (-count, len(text), len(candidate), text, candidate))
            else:
                del self._counts[candidate]
                self._words.pop(candidate, None)

    def _most_frequent(self) -> bytes:
        """The candidate that comes first; StopIteration if there is none."""
        while self._heap:
            count, *_, candidate = heapq.heappop(self._heap)
            if self._counts.get(candidate) == -count:  # otherwise it has changed since
                return candidate
        raise StopIteration


def _pieces(tokenizer: TiktokenTokenizer, word: str) -> list[bytes]:
    return list(map(tokenizer.decode_bytes, tokenizer.encoding._encode_single_piece(word)))


def _merged(pieces: list[bytes], ranks: Mapping[bytes, int]) -> list[bytes]:
    """Pieces after all merges that the ranks allow, the lowest rank first."""
    pieces = list(pieces)
    while True:
        joined = ((ranks.get(left + right), at) for at, (left, right) in enumerate(pairwise(pieces)))
        rank, at = min(((rank, at) for rank, at in joined if rank is not None), default=(None, 0))
        if rank is None:
            return pieces
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
