"""New tokens for a vocabulary from words and their frequencies: which words can be learned, and which ids they get."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from qwartet.errors import DataError, SettingError
from qwartet.tokenizer.merges import MergeLearner, OnMerged
from qwartet.tokenizer.pieces import pieces_of
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from qwartet.tokenizer.vocabulary import MAX_FILE_BYTES, MAX_RANK
from qwartet.tokenizer.word_counts import WordCounts


@dataclass(frozen=True)
class SortedWords:
    """Words by what can be done with them."""

    source: WordCounts
    learnable: dict[str, int]  # with their frequencies
    split: dict[str, list[str]]  # into these pieces by the pattern
    existing: dict[str, int]  # tokens already, with their ids


@dataclass(frozen=True)
class Extension:
    """New tokens with their ids, in the order in which they were learned."""

    tokens: dict[bytes, int]
    num_unfinished: int  # words that are not a single token, since `max_merges` came first


def sort_words(tokenizer: TiktokenTokenizer, words: WordCounts) -> SortedWords:
    """Which of the words can become tokens."""
    found = SortedWords(words, {}, {}, {})
    for word, frequency in words.frequencies.items():
        if len(pieces := list(pieces_of(word))) > 1:
            found.split[word] = pieces
        elif (token_id := tokenizer.mergeable_ranks.get(word.encode())) is not None:
            found.existing[word] = token_id
        else:
            found.learnable[word] = frequency
    return found


def extend(
    tokenizer: TiktokenTokenizer,
    words: SortedWords,
    *,
    start_id: int | None = None,
    max_merges: int | None = None,
    num_rows: int | None = None,
    on_merged: OnMerged | None = None,
) -> Extension:
    """New tokens, with ids from `start_id` on, by default the first free one; with `max_merges`, at most so many.

    `num_rows` are the rows of the model's embedding. DataError if there is nothing to learn, SettingError for
    ids that are taken or beyond the rows.
    """
    first_free = tokenizer.num_tokens
    start = first_free if start_id is None else start_id
    if start < first_free:
        raise SettingError(f"start_id is {start}; it must be at least {first_free}, the first free id")
    if max_merges is not None and max_merges < 1:
        raise SettingError(f"max_merges is {max_merges}; it must be at least 1")
    if not words.learnable:
        counts = f"{len(words.existing)} of the words are tokens already, {len(words.split)} are split"
        raise DataError(words.source.path, f"no new tokens: {counts}", hint="add other words")
    _check_rows(min(len(words.learnable), max_merges or MAX_RANK), start, num_rows, "at least ")
    learner = MergeLearner(tokenizer, words.learnable, on_merged)
    tokens: dict[bytes, int] = {}
    num_bytes = 0
    for token in islice(learner, max_merges):
        tokens[token] = start + len(tokens)
        num_bytes += len(token) * 4 // 3 + 12  # about the length of its line
        if num_bytes > MAX_FILE_BYTES:
            limit = f"the new tokens take more than {MAX_FILE_BYTES >> 20} MiB, which no tokenizer reads"
            raise SettingError(f"{limit}; use fewer words, or set max_merges to less than {len(tokens)}")
    _check_rows(len(tokens), start, num_rows)
    return Extension(tokens, learner.num_unfinished)


def _check_rows(num_tokens: int, start: int, num_rows: int | None, at_least: str = "") -> None:
    """SettingError if so many tokens have no ids, or no rows, from `start` on."""
    end = MAX_RANK + 1 if num_rows is None else num_rows
    if start + num_tokens <= end:
        return
    if num_rows is None:
        last = start + num_tokens - 1
        raise SettingError(f"the last id would be {last}, above the limit of {MAX_RANK}; use a smaller start_id")
    advice = "pass the vocabulary file instead of the directory to ignore the rows"
    if start >= end:
        raise SettingError(f"id {start} is beyond the embedding, which has {num_rows} rows; {advice}")
    left = end - start
    room = f"the embedding has room for only {left} (from id {start})"
    options = f"set max_merges to {left}, use fewer words, or {advice}"
    raise SettingError(f"{at_least}{num_tokens} tokens are needed, but {room}; {options}")
