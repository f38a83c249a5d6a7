"""Learned merges: the published example, and slow references that count all pairs anew for every token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice, pairwise

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from qwartet.tokenizer.merges import MergeLearner
from qwartet.tokenizer.normalize import nfc
from qwartet.tokenizer.pieces import pieces_of
from qwartet.tokenizer.tiktoken_tokenizer import PATTERN, TiktokenTokenizer
from qwartet.tokenizer.vocabulary import Vocabulary
from tests.tokenizer.vocabularies import published_tokenizer

# Tokens that overlap, so that neighbours can be joined in several ways: ab + c = a + bc.
OVERLAPPING = (b"ab", b"bc", b"ca", b"aa", b"caa", "你".encode()[:2], "你".encode(), "é".encode())
CATS = {"我是一只猫": 20, "你是一只猫": 10, "他是一只猫": 5, "一只": 200, "一只猫": 100}


def tokenizer_with(tokens: tuple[bytes, ...]) -> TiktokenTokenizer:
    ranks = {bytes([byte]): byte for byte in range(256)}
    return TiktokenTokenizer(Vocabulary.from_ranks(ranks | {token: 256 + i for i, token in enumerate(tokens)}))


def order(token: bytes, count: int) -> tuple[int, int, int, str, bytes]:
    """Most frequent first, then fewest characters, fewest bytes, and by text: as in the original."""
    text = token.decode("utf-8", "replace")
    return -count, len(text), len(token), text, token


def learned_anew(tokenizer: TiktokenTokenizer, counts: Mapping[str, int]) -> list[bytes]:
    """Every step asks tiktoken, with the tokens so far, for the pieces of all words."""
    ranks, new = dict(tokenizer.mergeable_ranks), []
    while True:
        encoding = tiktoken.Encoding("step", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        candidates: Counter[bytes] = Counter()
        for word, frequency in counts.items():
            pieces = [encoding.decode_single_token_bytes(token_id) for token_id in encoding.encode_ordinary(word)]
            for left, right in pairwise(pieces):
                candidates[left + right] += frequency
        if not candidates:
            return new
        token = min(candidates, key=lambda token: order(token, candidates[token]))
        assert token not in ranks
        ranks[token] = len(ranks)
        new.append(token)


def learned_as_published(tokenizer: TiktokenTokenizer, counts: Mapping[str, int]) -> list[bytes]:
    """The original's algorithm: the most frequent pair is joined everywhere, and no other pair with the same bytes."""
    encode = tokenizer.encoding.encode_ordinary
    words = [([*map(tokenizer.decode_bytes, encode(word))], frequency) for word, frequency in counts.items()]
    new = []
    while any(len(pieces) > 1 for pieces, _ in words):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for pieces, frequency in words:
            for pair in pairwise(pieces):
                pairs[pair] += frequency
        best = min(pairs, key=lambda pair: order(pair[0] + pair[1], pairs[pair]))
        new.append(best[0] + best[1])
        for pieces, _ in words:
            at = 0
            while at < len(pieces) - 1:
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = [best[0] + best[1]]
                at += 1
    return new


WORDS = st.text(st.sampled_from("abc你é"), min_size=1, max_size=9).map(nfc)
COUNTS = st.dictionaries(WORDS, st.integers(1, 5), max_size=8)


def test_the_published_example() -> None:
    words = ["一只猫", "只猫", "是一只猫", "我是一只猫", "你是一只猫", "他是一只猫"]
    assert [token.decode() for token in MergeLearner(published_tokenizer(), CATS)] == words


@given(COUNTS, st.lists(st.sampled_from(OVERLAPPING), unique=True).map(tuple))
@settings(deadline=None)
def test_tokens_are_those_of_the_slow_reference(counts: dict[str, int], base: tuple[bytes, ...]) -> None:
    tokenizer = tokenizer_with(base)
    assert list(MergeLearner(tokenizer, counts)) == learned_anew(tokenizer, counts)


@given(COUNTS)
@settings(deadline=None)
def test_every_word_becomes_one_token_and_no_token_is_learned_twice(counts: dict[str, int]) -> None:
    tokenizer = tokenizer_with(OVERLAPPING)
    tokens = list(MergeLearner(tokenizer, counts))
    assert len(set(tokens)) == len(tokens) and tokenizer.mergeable_ranks.keys().isdisjoint(tokens)
    ids = {token: tokenizer.num_tokens + i for i, token in enumerate(tokens)}
    extended = TiktokenTokenizer(
        Vocabulary(tokenizer.mergeable_ranks | ids, tokenizer.special_tokens, tokenizer.vocabulary.num_ranks)
    )
    assert all(len(extended.encode(word)) == 1 for word in counts)


@given(st.dictionaries(st.sampled_from("天气预报模型回答问题系统用户助手"), st.integers(1, 9)), st.data())
@settings(deadline=None, max_examples=25)
def test_on_the_published_vocabulary_the_published_algorithm_gives_the_same(
    characters: dict[str, int], data: st.DataObject
) -> None:
    words = st.text(st.sampled_from("天气预报模型回答问题系统用户助手"), min_size=2, max_size=6)
    counts = data.draw(st.dictionaries(words, st.integers(1, 5), max_size=20)) | characters
    tokenizer = published_tokenizer()
    assert list(MergeLearner(tokenizer, counts)) == learned_as_published(tokenizer, counts)


def test_no_token_is_learned_that_the_vocabulary_has_but_no_merges_lead_to() -> None:
    tokenizer = tokenizer_with((b"abc",))
    counts = {"abcd": 1, "abce": 1}
    assert tokenizer.encode("abcd") == list(b"abcd")
    assert list(MergeLearner(tokenizer, counts)) == [b"ab", b"abcd", b"abce"] == learned_anew(tokenizer, counts)
    assert learned_as_published(tokenizer, counts) == [b"ab", b"abc", b"abcd", b"abce"]


def test_merges_lead_to_every_token_of_the_published_vocabulary() -> None:
    """So what is learned on it is what the published algorithm learns. A byte behind a token hides it from lookup."""
    tokenizer = published_tokenizer()
    ranks, behind = tokenizer.mergeable_ranks, b"\xff"
    assert [token for token in ranks if behind in token] == [behind]
    encode = tokenizer.encoding._encode_single_piece
    assert all(encode(token + behind) == [rank, ranks[behind]] for token, rank in ranks.items())


@pytest.mark.parametrize(
    ("counts", "tokens"),
    [
        ({"xy": 1, "zz": 2}, [b"zz", b"xy"]),  # the most frequent
        ({"xyz": 2}, [b"xy", b"xyz"]),  # of two as frequent, the first by text
        ({"é": 1, "xy": 1}, ["é".encode(), b"xy"]),  # fewer characters, though not fewer bytes
        ({"éx": 1, "zy": 1}, ["é".encode(), b"zy", "éx".encode()]),  # fewer bytes
        ({"xx": 1, "xxx": 1}, [b"xx", b"xxx"]),  # overlapping pairs are all counted
        ({}, []),
        ({"x": 5}, []),
    ],
)
def test_the_order_of_tokens(counts: dict[str, int], tokens: list[bytes]) -> None:
    tokenizer = tokenizer_with(())
    assert list(MergeLearner(tokenizer, counts)) == tokens == learned_anew(tokenizer, counts)


def test_progress_ends_at_its_total_and_unfinished_words_are_counted() -> None:
    steps: list[tuple[int, int]] = []
    learner = MergeLearner(tokenizer_with(()), {"abcd": 1, "xy": 3}, lambda done, total: steps.append((done, total)))
    assert learner.num_unfinished == 2
    assert list(islice(learner, 1)) == [b"xy"] and learner.num_unfinished == 1
    assert len(list(learner)) == 3 and learner.num_unfinished == 0
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


@given(st.text(st.sampled_from("aé你 \t\n\x1c1'!s\u00a0\u0301"), max_size=12))
def test_pieces_are_those_that_tiktoken_encodes_separately(text: str) -> None:
    """With a token for every part of the text, each piece is one token and no two pieces share one."""
    pieces = list(pieces_of(text))
    assert "".join(pieces) == text
    parts = {text[start:end].encode() for start in range(len(text)) for end in range(start + 1, len(text) + 1)}
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {part: 256 + i for i, part in enumerate(sorted(parts - ranks.keys()))}
    encoding = tiktoken.Encoding("parts", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    assert [encoding.decode_single_token_bytes(i).decode() for i in encoding.encode_ordinary(text)] == pieces
