"""Texts with a run of whitespace that is too long for the pattern matchers of tiktoken and tokenizers.

The pattern's `\\s+(?!\\S)` backtracks once per character, and tiktoken gives up (ValueError) on runs of more than
999,998, the library tokenizers (with a panic) on some millions. The pieces of a run can be derived from the pattern by
hand, so we cut the text there and pass on the pieces:

    other \\n\\n | ..\\n..\\n | ........ | .word       | marks the cuts, . is whitespace except newline
          ^ [^\\s\\p{L}\\p{N}]+[\\r\\n]*  takes the newlines right after punctuation
                   ^ \\s*[\\r\\n]+         reaches to the run's last newline
                              ^ \\s+(?!\\S) leaves the last character to what follows

Nothing in the pattern looks behind, so the text after a cut is encoded as if it were alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import tiktoken

MAX_WHITESPACE_RUN = 900_000  # characters, safely within tiktoken's limit

# Unicode's White_Space, which is \s in tiktoken; Python's own \s has four more.
_WHITESPACE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


def find_long_whitespace(text: str, longer_than: int = MAX_WHITESPACE_RUN) -> list[tuple[int, int]]:
    """(start, end) of every run of more than `longer_than` whitespace characters."""
    if len(text) <= longer_than:
        return []
    # The look-behind keeps the search linear: a run is only tried from its start.
    pattern = re.compile(f"{_WHITESPACE}(?<!{_WHITESPACE}{{2}}){_WHITESPACE}{{{longer_than},}}+")
    return [run.span() for run in pattern.finditer(text)]


def encode_long_whitespace(
    encoding: tiktoken.Encoding, text: str, special_tokens: dict[str, int], longer_than: int = MAX_WHITESPACE_RUN
) -> list[int]:
    """Ids as from a tiktoken without the limit; `special_tokens` are parsed, in time linear in the text."""
    # tiktoken does the same to a text that is not valid Unicode.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ids: list[int] = []
    for part in _split_special(text, special_tokens):
        if part in special_tokens:
            ids.append(special_tokens[part])
        else:
            ids.extend(_encode_part(encoding, part, longer_than))
    return ids


def _split_special(text: str, special_tokens: dict[str, int]) -> list[str]:
    if not special_tokens:
        return [text]
    return re.split(f"({'|'.join(map(re.escape, special_tokens))})", text)


def _encode_part(encoding: tiktoken.Encoding, text: str, longer_than: int) -> list[int]:
    ids: list[int] = []
    for part, is_piece in cut_long_whitespace(text, longer_than):
        ids.extend(encoding._encode_single_piece(part) if is_piece else encoding.encode_ordinary(part))
    return ids


def cut_long_whitespace(text: str, longer_than: int = MAX_WHITESPACE_RUN) -> Iterator[tuple[str, bool]]:
    """The parts of a text, cut within every run of more than `longer_than` whitespace characters, and whether a part is
    a piece of such a run. The ids of the parts are those of the text.
    """
    position = 0
    for start, end in find_long_whitespace(text, longer_than):
        cut = start
        if start > position and not _is_letter_or_number(text[start - 1]):
            while cut < end and text[cut] in "\r\n":
                cut += 1
        yield text[position:cut], False
        for piece in _whitespace_pieces(text[cut:end], is_last=end == len(text)):
            yield piece, True
            cut += len(piece)
        position = cut
    yield text[position:], False


def _whitespace_pieces(run: str, *, is_last: bool) -> Iterator[str]:
    """Pieces of a whitespace run, without the last character if that belongs to the text after it."""
    last_newline = max(run.rfind("\n"), run.rfind("\r"))
    through_newline, rest = run[: last_newline + 1], run[last_newline + 1 :]
    if not is_last:
        rest = rest[:-1]
    yield from filter(None, (through_newline, rest))


def _is_letter_or_number(character: str) -> bool:
    """Whether a character is one to tiktoken, whose Unicode tables are newer than Python's."""
    return bool(_letters_and_numbers().encode_ordinary(character))


@cache
def _letters_and_numbers() -> tiktoken.Encoding:
    """An encoding that drops everything else: what its pattern does not match gives no ids."""
    single_bytes = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding("LN", pat_str=r"[\p{L}\p{N}]", mergeable_ranks=single_bytes, special_tokens={})
