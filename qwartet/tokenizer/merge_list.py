"""The merges of a vocabulary, for tokenizers that list pairs of tokens where tiktoken has ranks.

tiktoken repeatedly joins the two neighbours whose concatenation has the lowest rank. The pair that gives a token is
unique: inside the bytes of the token, the joins before the last one are those of the token alone, whatever surrounds
it. So every token has one merge, and the list is sorted by rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise


def merge_list(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The last join of each token of several bytes, in the order of the ranks.

    A token that no joins lead to is left out: tiktoken gives it only for a piece of text that equals it.
    """
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1 and (pair := _last_join(token, ranks)) is not None:
            yield pair


def _last_join(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    pieces = [token[at : at + 1] for at in range(len(token))]
    while len(pieces) > 2:
        joined = [(ranks.get(left + right), at) for at, (left, right) in enumerate(pairwise(pieces))]
        lowest = min(((rank, at) for rank, at in joined if rank is not None), default=None)
        if lowest is None:
            return None
        at = lowest[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces[0], pieces[1]
