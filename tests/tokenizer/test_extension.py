"""Words from a file to new tokens: what is read, what is left out and why, which ids they get, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.errors import DataError, SettingError
from qwartet.tokenizer import extension, word_counts
from qwartet.tokenizer.extension import Extension, SortedWords, extend, sort_words
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from qwartet.tokenizer.vocabulary import MAX_RANK, write_tokens
from qwartet.tokenizer.word_counts import MAX_FREQUENCY, MAX_WORD_BYTES, read_word_counts
from tests.evaluate.published_data import published
from tests.golden_data import real_vocabulary
from tests.tokenizer.vocabularies import SMALL_N, published_tokenizer, small_tokenizer, write_small_vocabulary

FIRST_FREE = SMALL_N + 208


def written(directory: Path, content: str | bytes) -> Path:
    path = directory / "words.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sorted_words(directory: Path, content: str) -> SortedWords:
    return sort_words(small_tokenizer(), read_word_counts(written(directory, content)))


# The file


def test_words_frequencies_and_lines(tmp_path: Path) -> None:
    found = read_word_counts(written(tmp_path, "猫\t3\n\n  \nword\t12 \n space\t1\ne\u0301\t2\r\nlast\t7"))
    assert found.frequencies == {"猫": 3, "word": 12, " space": 1, "\u00e9": 2, "last": 7}
    assert found.lines == {"猫": 1, "word": 4, " space": 5, "\u00e9": 6, "last": 7} and found.repeated == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    assert read_word_counts(written(tmp_path, "猫\t3\n".encode(encoding))).frequencies == {"猫": 3}


def test_frequencies_of_a_repeated_word_are_added_also_when_its_accents_are_typed_otherwise(tmp_path: Path) -> None:
    found = read_word_counts(written(tmp_path, "caf\u00e9\t3\nx\t1\ncafe\u0301\t4\ncaf\u00e9\t5\n"))
    assert found.frequencies == {"caf\u00e9": 12, "x": 1} and found.repeated == [(3, "caf\u00e9"), (4, "caf\u00e9")]


FORM = "; write the word, a tab and its frequency"
BROKEN: dict[str, tuple[bytes, str]] = {
    "no tab": (b"ok\t1\nword 5\n", f"line 2: 0 tabs in 'word 5'{FORM}"),
    "two tabs": (b"a\tb\t5\n", f"line 1: 2 tabs in 'a\\tb\\t5'{FORM}"),
    "a tab at the end": (b"a\t5\t\n", f"line 1: 2 tabs in 'a\\t5\\t'{FORM}"),
    "no word": (b" \t5\n", f"line 1: there is no word before the tab{FORM}"),
    "no frequency": (b"a\t\n", f"line 1: the frequency is ''; write a whole number from 1 to {MAX_FREQUENCY}"),
    "frequency zero": (b"a\t0\n", "line 1: the frequency is '0'; write"),
    "negative frequency": (b"a\t-3\n", "line 1: the frequency is '-3'; write"),
    "fraction": (b"a\t1.5\n", "line 1: the frequency is '1.5'; write"),
    "underscore": (b"a\t1_000\n", "line 1: the frequency is '1_000'; write"),
    "other digits": ("a\t٣\n".encode(), "line 1: the frequency is '٣'; write"),
    "huge frequency": (b"a\t" + b"9" * 100_000 + b"\n", "line 1: the frequency is '999999999"),
    "frequency above the limit": (b"a\t%d\n" % (MAX_FREQUENCY + 1), "line 1: the frequency is"),
    "word of a megabyte": (
        b"a\t1\n" + b"x" * 2**20 + b"\t3\n",
        f"line 2: the word has 1048576 bytes, and at most {MAX_WORD_BYTES} are allowed; remove the line",
    ),
    "megabyte of marks": (
        b"a" + "\u0301\u0327".encode() * 2**18 + b"\t3\n",
        f"bytes, and at most {MAX_WORD_BYTES} are allowed",
    ),
    "line of a megabyte": (b"x" * 2**20, "line 1: 0 tabs in 'xxxxx"),
    "not UTF-8": (b"a\t1\n\xff\xfeb\t2\n", "line 2, byte 4 (0xff) is not UTF-8 text; convert it: iconv"),
    "UTF-16 without a mark": ("word\t5\n".encode("utf-16-le"), "looks like UTF-16 without a byte order mark"),
    "empty": (b"", "has no words; write"),
    "blank": (b"\n \n\t\n", "has no words; write"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_told_where_and_what_to_do(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    with pytest.raises(DataError) as caught:
        read_word_counts(written(tmp_path, content))
    assert message in str(caught.value).replace(", line", ": line", 1) and len(str(caught.value)) <= 1000
    assert "; " in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"), [("none.txt", "no such file"), (".", "is a directory, not a file"), ("a\0b", "not a path")]
)
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(DataError, match=f"{message}.*; check the path"):
        read_word_counts(tmp_path / path)


def test_a_file_of_any_size_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_counts, "MAX_FILE_BYTES", 2**20)
    path = written(tmp_path, b"a\t1\n" * 2**18)
    assert read_word_counts(path).frequencies == {"a": 2**18}
    path.write_bytes(b"a\t1\n" * (2**18 + 1))
    with pytest.raises(DataError, match="larger than 1 MiB; keep only the most frequent words"):
        read_word_counts(path)


@given(st.binary(max_size=40) | st.text("a猫\t\n\r 12\u0301\x85", max_size=40).map(str.encode))
def test_any_content_gives_words_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = written(tmp_path_factory.getbasetemp(), content)
    try:
        found = read_word_counts(path)
    except DataError:
        return
    assert found.frequencies.keys() == found.lines.keys() and min(found.frequencies.values()) >= 1
    assert all("\t" not in word and "\n" not in word and word.strip() for word in found.lines)


# The words


def test_words_that_are_split_or_exist_are_left_out(tmp_path: Path) -> None:
    found = sorted_words(tmp_path, "abc\t1\na b\t2\nabcd\t3\n你\t4\nx1\t5\nit's\t6\n<|im_end|>\t7\n dog\t8\n")
    assert found.learnable == {"abc": 1, " dog": 8}
    assert found.existing == {"abcd": 258, "你": SMALL_N - 1}
    assert found.split == {"a b": ["a", " b"], "x1": ["x", "1"], "it's": ["it", "'s"]} | {
        "<|im_end|>": ["<|", "im", "_end", "|>"]
    }


def test_a_word_with_a_space_before_it_is_the_form_within_a_sentence(tmp_path: Path) -> None:
    found = extend(small_tokenizer(), sorted_words(tmp_path, " dog\t8\n"))
    assert list(found.tokens) == [b" d", b"og", b" dog"]


# The ids


def test_ids_follow_each_other_from_the_first_free_one_or_the_given_one(tmp_path: Path) -> None:
    words = sorted_words(tmp_path, "xyz\t1\n")
    assert extend(small_tokenizer(), words) == Extension({b"xy": FIRST_FREE, b"xyz": FIRST_FREE + 1}, 0)
    assert extend(small_tokenizer(), words, start_id=9000).tokens == {b"xy": 9000, b"xyz": 9001}


def test_the_first_free_id_comes_after_an_extra_vocabulary(tmp_path: Path) -> None:
    vocabulary, extra = write_small_vocabulary(tmp_path / "qwen.tiktoken"), tmp_path / "extra.tiktoken"
    write_tokens(extra, {b"xy": FIRST_FREE + 5})
    tokenizer = TiktokenTokenizer.load(vocabulary, extra)
    assert extend(tokenizer, sorted_words(tmp_path, "xyz\t1\n")).tokens == {b"xyz": FIRST_FREE + 6}


def test_learning_stops_at_the_maximum_and_counts_the_words_that_are_not_done(tmp_path: Path) -> None:
    words = sorted_words(tmp_path, "xyz\t1\nuv\t5\n")
    assert extend(small_tokenizer(), words, max_merges=2) == Extension({b"uv": FIRST_FREE, b"xy": FIRST_FREE + 1}, 1)
    assert len(extend(small_tokenizer(), words, max_merges=3).tokens) == 3
    assert extend(small_tokenizer(), words, max_merges=99) == extend(small_tokenizer(), words)


def test_tokens_may_fill_the_rows_of_the_embedding(tmp_path: Path) -> None:
    words = sorted_words(tmp_path, "xyz\t1\n")
    assert len(extend(small_tokenizer(), words, num_rows=FIRST_FREE + 2).tokens) == 2
    assert len(extend(small_tokenizer(), words, num_rows=FIRST_FREE + 1, max_merges=1).tokens) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_id": FIRST_FREE - 1}, f"start_id is {FIRST_FREE - 1}; it must be at least {FIRST_FREE}, the first"),
        ({"start_id": -1}, "start_id is -1; it must be"),
        (
            {"start_id": MAX_RANK + 1},
            f"the last id would be {MAX_RANK + 2}, above the limit of {MAX_RANK}; use a smaller",
        ),
        (
            {"start_id": MAX_RANK - 1},
            f"the last id would be {MAX_RANK + 1}, above the limit of {MAX_RANK}; use a smaller",
        ),
        ({"max_merges": 0}, "max_merges is 0; it must be at least 1"),
        (
            {"num_rows": FIRST_FREE + 1},
            f"at least 2 tokens are needed, but the embedding has room for only 1 (from id {FIRST_FREE}); set",
        ),
        (
            {"num_rows": FIRST_FREE + 2},
            f"3 tokens are needed, but the embedding has room for only 2 (from id {FIRST_FREE}); set",
        ),
        ({"num_rows": FIRST_FREE}, f"id {FIRST_FREE} is beyond the embedding, which has {FIRST_FREE} rows; pass"),
        ({"num_rows": 9000, "start_id": 9500}, "id 9500 is beyond the embedding, which has 9000 rows; pass the"),
    ],
)
def test_ids_that_are_taken_or_beyond_the_rows_are_refused(
    tmp_path: Path, settings: dict[str, int], message: str
) -> None:
    words = sorted_words(tmp_path, "xyz\t1\nuv\t5\n")
    with pytest.raises(SettingError) as caught:
        extend(small_tokenizer(), words, **settings)
    assert str(caught.value).startswith(message)


def test_nothing_to_learn_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no new tokens: 2 of the words are tokens already, 1 are split; add"):
        extend(small_tokenizer(), sorted_words(tmp_path, "ab\t1\ncd\t5\na b\t1\n"))


def test_more_tokens_than_a_tokenizer_reads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = sorted_words(tmp_path, "".join(f"{chr(0x4E00 + i)}xyz\t1\n" for i in range(100)))
    size = len(base64.b64encode(b"xyz") + b" 475\n") * len(extend(small_tokenizer(), words).tokens)
    monkeypatch.setattr(extension, "MAX_FILE_BYTES", size * 3)
    assert extend(small_tokenizer(), words)
    monkeypatch.setattr(extension, "MAX_FILE_BYTES", size // 3)
    with pytest.raises(
        SettingError, match=r"MiB, which no tokenizer reads; use fewer words, or set max_merges to less"
    ):
        extend(small_tokenizer(), words)


# The published files


def test_the_published_words_give_the_published_file(tmp_path: Path) -> None:
    folder = published("qwen-eval")
    words = sort_words(published_tokenizer(), read_word_counts(folder / "qwen_extra_vocab.txt"))
    assert words.existing == {"一只": 102_292} and words.split == {"夸张的 比喻手法": ["夸张的", " 比喻手法"]}
    write_tokens(tmp_path / "out.tiktoken", extend(published_tokenizer(), words).tokens)
    assert (tmp_path / "out.tiktoken").read_bytes() == (folder / "qwen_extra.tiktoken").read_bytes()
    extended = TiktokenTokenizer.load(real_vocabulary(), tmp_path / "out.tiktoken")
    assert extended.num_tokens == 151_857 and extended.encode("我是一只猫") == [151_854]
