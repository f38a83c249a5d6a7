"""The byte-pair trainer: the published byte order, determinism, and files that tiktoken and the tokenizer read."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwartet.tokenizer.tiktoken_tokenizer import PATTERN, TiktokenTokenizer
from qwartet.tokenizer.vocabulary import Vocabulary
from recipes.demo import byte_pairs, vocabulary
from tests.golden_data import real_vocabulary

SMALL = {"num_ranks": 700, "num_conversations": 400}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "qwen.tiktoken"
    vocabulary.build(**SMALL).save(path)
    return path


def test_single_bytes_stand_in_the_published_order() -> None:
    published = Vocabulary.load(real_vocabulary()).mergeable_ranks
    by_rank = sorted(published, key=published.__getitem__)
    assert byte_pairs.byte_order() == by_rank[:256]


def test_all_bytes_are_there_once_and_printable_ones_first() -> None:
    order = byte_pairs.byte_order()
    assert len(set(order)) == 256
    assert (order[0], order[93], order[188], order[255]) == (b"!", b"~", b"\x00", b"\xad")


def test_the_most_frequent_pair_is_merged_first() -> None:
    tokens = byte_pairs.learn(Counter({b"abab": 5, b"bc": 3}), num_ranks=258)
    assert tokens[256:] == [b"ab", b"abab"]


def test_a_tie_goes_to_the_lower_ids() -> None:
    tokens = byte_pairs.learn(Counter({b"xy": 4, b"ab": 4}), num_ranks=257)
    assert tokens[256:] == [b"ab"]


def test_a_run_of_one_byte_is_merged_without_overlap() -> None:
    tokens = byte_pairs.learn(Counter({b"aaa": 2, b"aa": 2}), num_ranks=300)
    assert tokens[256:] == [b"aa", b"aaa"]


def test_a_pair_that_occurs_once_is_not_learnt() -> None:
    assert len(byte_pairs.learn(Counter({b"ab": 1}), num_ranks=300)) == 256


@given(st.dictionaries(st.binary(min_size=1, max_size=8), st.integers(1, 9), max_size=30))
@settings(max_examples=60, deadline=None)
def test_merges_are_those_of_a_recount_after_every_merge(words: dict[bytes, int]) -> None:
    tokens = byte_pairs.byte_order()
    split = {word: [bytes((byte,)) for byte in word] for word in words}
    while len(tokens) < 266:
        counts: Counter[tuple[int, int]] = Counter()
        for word, parts in split.items():
            for left, right in itertools.pairwise(parts):
                counts[tokens.index(left), tokens.index(right)] += words[word]
        allowed = {
            pair: count
            for pair, count in counts.items()
            if count > 1 and byte_pairs.is_short(joined := tokens[pair[0]] + tokens[pair[1]]) and joined not in tokens
        }
        if not allowed:
            break
        left, right = (tokens[index] for index in min(allowed, key=lambda pair: (-allowed[pair], pair)))
        tokens.append(left + right)
        for word, parts in split.items():
            merged: list[bytes] = []
            for part in parts:
                if part == right and merged and merged[-1] == left:
                    merged[-1] = left + right
                else:
                    merged.append(part)
            split[word] = merged
    assert byte_pairs.learn(Counter(words), num_ranks=266) == tokens


def test_a_mark_is_not_learnt_together_with_letters() -> None:
    words = byte_pairs.count_words(["你好。你好。"] * 2, PATTERN)
    assert words["你好".encode()] == 4
    assert not any("。你" in word.decode() for word in words)


def test_the_same_arguments_give_the_same_file(small: Path) -> None:
    again = small.with_name("again.tiktoken")
    vocabulary.build(**SMALL).save(again)
    assert again.read_bytes() == small.read_bytes()


def test_the_bundled_size_leaves_room_for_4096_ranks_at_most() -> None:
    assert vocabulary.NUM_RANKS <= 4096


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    tokenizer = TiktokenTokenizer(_in_memory())
    composed = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    ids = tokenizer.encode(composed)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_tiktoken_and_the_file_agree_on_a_sample(small: Path) -> None:
    tokenizer = TiktokenTokenizer.load(small)
    for text in vocabulary.sample(50, seed=1):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert all(token_id < 700 for token_id in tokenizer.encode(text))


_built: list[Vocabulary] = []


def _in_memory() -> Vocabulary:
    if not _built:
        _built.append(vocabulary.build(**SMALL))
    return _built[0]
