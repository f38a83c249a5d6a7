"""The file of words that a vocabulary is to learn: a word, a tab and its frequency on each line.

    我是一只猫	20
    一只猫	100

As in the original, words are normalised to NFC, empty lines are skipped, and the frequencies of a repeated word are
added. Unlike there, a space before a word belongs to it (` word` is the form within a sentence), and a line in another
form is a `DataError` that names it.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

from qwartet.errors import DataError
from qwartet.files import decode_text, kind_of
from qwartet.tokenizer.normalize import nfc

MAX_FILE_BYTES = 32 << 20
MAX_WORD_BYTES = 128  # as many as the longest published token
MAX_FREQUENCY = 10**15

_DIGITS = re.compile(r"[0-9]{1,16}")
_FORM = "write the word, a tab and its frequency"


@dataclass(frozen=True)
class WordCounts:
    """Words in the order of the file."""

    path: Path
    frequencies: dict[str, int]
    lines: dict[str, int]  # where each word comes first, from 1
    repeated: list[tuple[int, str]]  # (line, word) of each further line


def read_word_counts(path: Path) -> WordCounts:
    """The words of a file, their frequencies being at least 1; DataError."""
    found = WordCounts(path, {}, {}, [])
    for number, line in enumerate(io.StringIO(_read_text(path), newline=None), start=1):
        if not line.strip():
            continue
        word, frequency = _word_and_frequency(path, number, line.rstrip("\n"))
        if word in found.lines:
            found.repeated.append((number, word))
        found.lines.setdefault(word, number)
        found.frequencies[word] = found.frequencies.get(word, 0) + frequency
    if not found.lines:
        raise DataError(path, "has no words", hint=f"{_FORM} on each line")
    return found


def _word_and_frequency(path: Path, number: int, line: str) -> tuple[str, int]:
    if (num_tabs := line.count("\t")) != 1:
        raise DataError(path, f"{num_tabs} tabs in {line!r:.60}", line=number, hint=_FORM)
    word, _, digits = line.partition("\t")
    if not word.strip():
        raise DataError(path, "there is no word before the tab", line=number, hint=_FORM)
    digits = digits.strip(" ")
    if not _DIGITS.fullmatch(digits) or not 1 <= int(digits) <= MAX_FREQUENCY:
        reason = f"the frequency is {digits!r:.40}"
        raise DataError(path, reason, line=number, hint=f"write a whole number from 1 to {MAX_FREQUENCY}")
    word = nfc(word)
    if (size := len(word.encode())) > MAX_WORD_BYTES:
        limit = f"the word has {size} bytes, and at most {MAX_WORD_BYTES} are allowed"
        raise DataError(path, limit, line=number, hint="remove the line")
    return word, int(digits)


def _read_text(path: Path) -> str:
    try:
        if (kind := kind_of(path)) != "a file":
            raise DataError(path, "no such file" if kind is None else f"is {kind}, not a file", hint="check the path")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", hint="check its permissions") from None
    except ValueError as error:  # a NUL in the path
        raise DataError(repr(path), f"not a path: {error}", hint="check the path") from None
    if len(content) > MAX_FILE_BYTES:
        raise DataError(path, f"larger than {MAX_FILE_BYTES >> 20} MiB", hint="keep only the most frequent words")
    try:
        return decode_text(content)
    except ValueError as error:
        raise DataError(path, str(error)) from None
