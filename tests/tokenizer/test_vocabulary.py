"""What a `.tiktoken` file gives, and what every kind of broken one is told."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.errors import VocabularyError
from qwartet.tokenizer import vocabulary as vocabulary_module
from qwartet.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary
from tests.tokenizer.vocabularies import SMALL_N, SMALL_RANKS, small_lines, tiktoken_line, write_small_vocabulary

FIRST_EXTRA = SMALL_N + len(SPECIAL_TOKENS)


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def replaced(number: int, line: bytes) -> list[bytes]:
    lines = small_lines()
    lines[number - 1] = line
    return lines


def test_ranks_are_read_and_special_tokens_follow_them(tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(write_small_vocabulary(tmp_path / "small.tiktoken"))
    assert vocabulary.mergeable_ranks == SMALL_RANKS
    assert vocabulary.num_ranks == SMALL_N
    assert vocabulary.special_tokens["<|endoftext|>"] == SMALL_N
    assert vocabulary.special_tokens["<|im_start|>"] == SMALL_N + 1
    assert vocabulary.special_tokens["<|im_end|>"] == SMALL_N + 2
    assert vocabulary.special_tokens["<|extra_0|>"] == SMALL_N + 3
    assert vocabulary.special_tokens["<|extra_204|>"] == SMALL_N + 207
    assert len(vocabulary.special_tokens) == 208


BROKEN_LINES: dict[str, tuple[Callable[[], list[bytes]], int, str]] = {
    "no base64": (lambda: replaced(7, b"B*== 6\n"), 7, "not `base64 rank`"),
    "base64 that was cut": (lambda: replaced(7, b"Bg= 6\n"), 7, "bad base64"),
    "padding inside base64": (lambda: replaced(7, b"Bg==Bg== 6\n"), 7, "bad base64"),
    "no token": (lambda: replaced(7, b" 6\n"), 7, "empty token"),
    "no rank": (lambda: replaced(7, b"Bg==\n"), 7, "not `base64 rank`"),
    "rank that is no number": (lambda: replaced(7, b"Bg== six\n"), 7, "not `base64 rank`"),
    "negative rank": (lambda: replaced(7, b"Bg== -6\n"), 7, "not `base64 rank`"),
    "rank with a zero in front": (lambda: replaced(7, b"Bg== 06\n"), 7, "not `base64 rank`"),
    "rank in other digits": (lambda: replaced(7, "Bg== ٦\n".encode()), 7, "non-ASCII"),
    "two spaces": (lambda: replaced(7, b"Bg==  6\n"), 7, "not `base64 rank`"),
    "a third column": (lambda: replaced(7, b"Bg== 6 6\n"), 7, "not `base64 rank`"),
    "duplicate token": (lambda: replaced(8, tiktoken_line(b"\x06", 7)), 8, "token already has rank 6"),
    "duplicate rank": (lambda: replaced(8, tiktoken_line(b"\x07", 6)), 8, "rank 6 after rank 6"),
    "falling rank": (lambda: replaced(8, tiktoken_line(b"\x07", 3)), 8, "rank 3 after rank 6"),
    "missing line": (lambda: small_lines()[:6] + small_lines()[7:], 7, "rank 7 after rank 5: 1 ranks are missing"),
    "missing first line": (lambda: small_lines()[1:], 1, "1 ranks are missing"),
    "huge rank": (lambda: replaced(7, b"Bg== " + b"9" * 5000 + b"\n"), 7, "rank above"),
    "rank beyond 32 bits": (lambda: replaced(7, b"Bg== 4294967302\n"), 7, "rank above"),
    "huge line": (lambda: replaced(7, b"A" * 100_000 + b" 6\n"), 7, "100002 bytes long"),
    "carriage return": (lambda: [line[:-1] + b"\r\n" for line in small_lines()], 1, "carriage return"),
    "byte order mark": (lambda: replaced(1, b"\xef\xbb\xbf" + small_lines()[0]), 1, "byte order mark"),
    "not ASCII": (lambda: replaced(7, b"\xff\xfe== 6\n"), 7, "non-ASCII"),
    "NUL": (lambda: replaced(7, b"\0 6\n"), 7, "not `base64 rank`"),
    "empty line": (lambda: replaced(7, b"\n"), 7, "empty line"),
    "no newline at the end": (lambda: [*small_lines()[:-1], small_lines()[-1][:-1]], SMALL_N, "the file is truncated"),
    "line that was cut": (lambda: [*small_lines()[:6], b"Bg"], 7, "the file is truncated"),
    "git-lfs pointer": (lambda: [b"version https://git-lfs.github.com/spec/v1\n"], 1, "git-lfs pointer"),
    "extra vocabulary too early": (
        lambda: [*small_lines(), tiktoken_line(b"xyz", FIRST_EXTRA - 1)],
        SMALL_N + 1,
        "207 ranks are missing",
    ),
}


@pytest.mark.parametrize("kind", BROKEN_LINES)
def test_a_broken_line_is_named_with_its_number(kind: str, tmp_path: Path) -> None:
    lines, number, reason = BROKEN_LINES[kind]
    path = write(tmp_path / "broken.tiktoken", lines())
    with pytest.raises(VocabularyError, match=f"line {number}: .*{re.escape(reason)}") as caught:
        Vocabulary.load(path)
    assert caught.value.line == number
    assert caught.value.path == str(path)


def test_a_missing_single_byte_is_refused_because_tiktoken_would_panic(tmp_path: Path) -> None:
    lines = [tiktoken_line(bytes([byte]), byte) for byte in range(255)]
    with pytest.raises(VocabularyError, match=r"1 of the 256 single bytes have no rank, first 0xff"):
        Vocabulary.load(write(tmp_path / "v.tiktoken", lines))


@pytest.mark.parametrize("name", ["absent", "directory", "fifo", "empty", "nul\0byte", "n" * 300])
def test_what_is_no_vocabulary_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(VocabularyError) as caught:
        Vocabulary.load(tmp_path / name)
    assert caught.value.line is None


def test_a_file_of_absurd_size_is_refused_before_it_is_read_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary_module, "MAX_FILE_BYTES", 1 << 10)
    with pytest.raises(VocabularyError, match="larger than"):
        Vocabulary.load(write_small_vocabulary(tmp_path / "v.tiktoken"))


@given(position=st.integers(0, 3000), new=st.binary(max_size=3), cut=st.integers(0, 3))
def test_a_changed_file_loads_or_is_a_vocabulary_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, new: bytes, cut: int
) -> None:
    content = b"".join(small_lines())
    path = tmp_path_factory.getbasetemp() / "changed.tiktoken"
    path.write_bytes(content[:position] + new + content[position + cut :])
    with contextlib.suppress(VocabularyError):
        Vocabulary.load(path)


@given(length=st.integers(0, len(b"".join(small_lines())) - 1))
def test_a_truncated_file_is_refused_or_ends_with_a_whole_line(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    content = b"".join(small_lines())[:length]
    path = tmp_path_factory.getbasetemp() / "truncated.tiktoken"
    path.write_bytes(content)
    try:
        assert Vocabulary.load(path).num_ranks == content.count(b"\n")
        assert content.endswith(b"\n")
    except VocabularyError:
        pass


def test_extra_vocabulary_is_merged_at_the_ids_it_names(tmp_path: Path) -> None:
    small = write_small_vocabulary(tmp_path / "small.tiktoken")
    extra = write(tmp_path / "extra.tiktoken", [tiktoken_line(b"abcdabcd", FIRST_EXTRA)])
    vocabulary = Vocabulary.load(small, extra)
    assert vocabulary.mergeable_ranks == SMALL_RANKS | {b"abcdabcd": FIRST_EXTRA}
    assert vocabulary.num_ranks == SMALL_N


def test_extra_vocabulary_skips_known_tokens_and_used_ids_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = write_small_vocabulary(tmp_path / "small.tiktoken")
    lines = [tiktoken_line(b"ab", FIRST_EXTRA), tiktoken_line(b"xy", SMALL_N + 1), tiktoken_line(b"yz", FIRST_EXTRA)]
    with caplog.at_level(logging.INFO):
        vocabulary = Vocabulary.load(small, write(tmp_path / "extra.tiktoken", lines))
    assert vocabulary.mergeable_ranks == SMALL_RANKS | {b"yz": FIRST_EXTRA}
    assert [("line 1: skipped" in text, "line 2: skipped" in text) for text in caplog.messages] == [
        (True, False),
        (False, True),
    ]


def test_a_broken_extra_vocabulary_names_its_line(tmp_path: Path) -> None:
    small = write_small_vocabulary(tmp_path / "small.tiktoken")
    extra = write(tmp_path / "extra.tiktoken", [tiktoken_line(b"xy", FIRST_EXTRA), b"xy\n"])
    with pytest.raises(VocabularyError, match=r"extra.tiktoken: line 2: "):
        Vocabulary.load(small, extra)


def test_save_and_load_give_the_same_vocabulary_with_the_extra_merged(tmp_path: Path) -> None:
    small = write_small_vocabulary(tmp_path / "small.tiktoken")
    extra = write(tmp_path / "e.tiktoken", [tiktoken_line(b"z!", FIRST_EXTRA + 5), tiktoken_line(b"y!", FIRST_EXTRA)])
    vocabulary = Vocabulary.load(small, extra)
    vocabulary.save(tmp_path / "saved.tiktoken")
    assert Vocabulary.load(tmp_path / "saved.tiktoken") == vocabulary


def test_a_file_written_by_save_is_byte_for_byte_the_one_that_was_loaded(tmp_path: Path) -> None:
    small = write_small_vocabulary(tmp_path / "small.tiktoken")
    Vocabulary.load(small).save(tmp_path / "saved.tiktoken")
    assert (tmp_path / "saved.tiktoken").read_bytes() == small.read_bytes()


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "v.tiktoken"
    target.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(VocabularyError, match="No space left"):
        Vocabulary.from_ranks(SMALL_RANKS).save(target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
