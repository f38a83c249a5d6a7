"""The `.tiktoken` file: byte-pair tokens with their merge ranks, checked before anything is built on them.

    IQ== 0            one line per token: base64(token bytes), one space, rank
    Ig== 1
    ...
    4r2X 151642       N = 151643 base ranks, from 0, without gaps
                      N     <|endoftext|>          the special tokens are not in the file:
                      N+1   <|im_start|>           their ids follow from N
                      N+2   <|im_end|>
                      N+3.. <|extra_0|> .. <|extra_204|>
    5LiA... 151851    N+208 and up: extra vocabulary, when one was merged into the file

The file is untrusted. Any fault is a `VocabularyError` that names the line.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwartet.errors import CheckpointWarning, VocabularyError
from qwartet.files import atomic_write

ENDOFTEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
SPECIAL_TOKENS = (ENDOFTEXT, IM_START, IM_END, *(f"<|extra_{i}|>" for i in range(205)))

MAX_FILE_BYTES = 32 << 20  # the published file is 2.6 MB
MAX_LINE_BYTES = 64 << 10
MAX_RANK = 10_000_000

_LINE = re.compile(rb"([A-Za-z0-9+/=]+) (0|[1-9][0-9]*)")
_AGAIN = "download the file again from the model's source"

StrPath = str | os.PathLike[str]
SpecialSet = Collection[str] | Literal["all"]
"""Names of special tokens, or all of them."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """Byte tokens with their ranks (extra vocabulary included) and special tokens with their ids."""

    mergeable_ranks: dict[bytes, int]
    special_tokens: dict[str, int]
    num_ranks: int  # base ranks: 0 .. num_ranks - 1, then the special tokens

    @property
    def num_tokens(self) -> int:
        """One more than the largest id."""
        return max(*self.mergeable_ranks.values(), *self.special_tokens.values()) + 1

    @classmethod
    def from_ranks(cls, mergeable_ranks: dict[bytes, int], *, path: StrPath = "<ranks>") -> Vocabulary:
        """Vocabulary over the given ranks; `path` names them in a VocabularyError."""
        ranks = sorted(mergeable_ranks.values())
        num_ranks = next((i for i, rank in enumerate(ranks) if rank != i), len(ranks))
        _check_gap(path, ranks, num_ranks)
        missing = [byte for byte in range(256) if mergeable_ranks.get(bytes([byte]), num_ranks) >= num_ranks]
        if missing:
            raise VocabularyError(
                path, f"{len(missing)} of the 256 single bytes have no rank, first 0x{missing[0]:02x}", hint=_AGAIN
            )
        special_tokens = {token: num_ranks + i for i, token in enumerate(SPECIAL_TOKENS)}
        return cls(dict(mergeable_ranks), special_tokens, num_ranks)

    @classmethod
    def load(cls, path: StrPath, extra_vocab_file: StrPath | None = None) -> Vocabulary:
        """Read a `.tiktoken` file, and the extra vocabulary on top of it; raises VocabularyError and nothing else."""
        ranks: dict[bytes, int] = {}
        previous, gap = -1, False
        for line, token, rank in _read(path):
            if token in ranks:
                raise VocabularyError(path, f"token already has rank {ranks[token]}", line=line, hint=_AGAIN)
            if rank <= previous:
                raise VocabularyError(path, f"rank {rank} after rank {previous}; ranks must increase", line=line)
            # The only gap that a valid file can have is at the special tokens' ids.
            hole = rank - previous - 1
            if hole and not gap and hole < len(SPECIAL_TOKENS):
                reason = f"rank {rank} after rank {previous}: {hole} ranks are missing"
                raise VocabularyError(path, reason, line=line, hint=_AGAIN)
            gap = gap or hole > 0
            ranks[token] = previous = rank
        vocabulary = cls.from_ranks(ranks, path=path)
        return vocabulary if extra_vocab_file is None else vocabulary._merged(extra_vocab_file)

    def save(self, path: StrPath) -> None:
        """Write the ranks, extra vocabulary included, as a `.tiktoken` file: all of it or nothing."""
        write_tokens(path, self.mergeable_ranks)

    def _merged(self, path: StrPath) -> Vocabulary:
        """This vocabulary with the lines of an extra file; known tokens and used ids are skipped, as published."""
        ranks = dict(self.mergeable_ranks)
        used = set(ranks.values()) | set(self.special_tokens.values())
        num_lines, num_before = 0, len(ranks)
        for line, token, rank in _read(path):
            if token in ranks:
                logger.info("%s: line %d: skipped, token %r already exists", path, line, token)
            elif rank in used:
                logger.info("%s: line %d: skipped, id %d is already used", path, line, rank)
            else:
                ranks[token] = rank
                used.add(rank)
            num_lines = line
        if num_skipped := num_lines - (len(ranks) - num_before):
            reason = f"{num_skipped} of {num_lines} lines skipped: the token already exists, or its id is used"
            warnings.warn(f"{path}: {reason}", CheckpointWarning, stacklevel=4)
        return Vocabulary(ranks, self.special_tokens, self.num_ranks)


def write_tokens(path: StrPath, ranks: Mapping[bytes, int]) -> None:
    """Write tokens with their ranks or ids as a `.tiktoken` file, all of it or nothing; raises VocabularyError."""
    lines = (
        base64.b64encode(token) + b" %d\n" % rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    )
    try:
        with atomic_write(Path(path)) as unfinished, unfinished.open("xb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise VocabularyError(path, f"cannot be written: {error.strerror}") from error


def _check_gap(path: StrPath, ranks: list[int], num_ranks: int) -> None:
    """Reject extra ranks that collide with the special tokens' ids."""
    first_extra = num_ranks + len(SPECIAL_TOKENS)
    if num_ranks < len(ranks) and ranks[num_ranks] < first_extra:
        reason = f"rank {ranks[num_ranks]} follows {num_ranks - 1}; extra vocabulary starts at {first_extra}"
        raise VocabularyError(path, reason, hint=_AGAIN)


def _read(path: StrPath) -> Iterator[tuple[int, bytes, int]]:
    """Line number (from 1), token and rank of every line of a `.tiktoken` file."""
    content = _read_bytes(path)
    if not content:
        raise VocabularyError(path, "the file is empty", hint=_AGAIN)
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.endswith(b"\n"):
            raise VocabularyError(path, "no newline at the end: the file is truncated", line=number, hint=_AGAIN)
        line = line[:-1]
        match = _LINE.fullmatch(line) if len(line) <= MAX_LINE_BYTES else None
        if match is None:
            reason, hint = _complaint(line, number)
            raise VocabularyError(path, reason, line=number, hint=hint)
        try:
            token = binascii.a2b_base64(match[1], strict_mode=True)
        except binascii.Error as error:
            raise VocabularyError(path, f"bad base64 ({error})", line=number, hint=_AGAIN) from None
        if len(match[2]) > len(str(MAX_RANK)) or int(match[2]) > MAX_RANK:
            raise VocabularyError(path, f"rank above {MAX_RANK}", line=number, hint=_AGAIN)
        yield number, token, int(match[2])


def _read_bytes(path: StrPath) -> bytes:
    try:
        if not Path(path).exists():
            raise VocabularyError(path, "no such file", hint="pass the path of a .tiktoken file")
        if not Path(path).is_file():
            raise VocabularyError(path, "not a file", hint="pass the path of a .tiktoken file")
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise VocabularyError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise VocabularyError(repr(path), f"not a path: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise VocabularyError(path, f"larger than {MAX_FILE_BYTES >> 20} MiB: not a vocabulary")
    return content


def _complaint(line: bytes, number: int) -> tuple[str, str]:
    """Why a line is not `base64 rank`, and what to do."""
    if len(line) > MAX_LINE_BYTES:
        return f"{len(line)} bytes long; at most {MAX_LINE_BYTES} are allowed", _AGAIN
    if number == 1 and line.startswith(b"\xef\xbb\xbf"):
        return "starts with a byte order mark", "save the file as plain ASCII without a BOM"
    if number == 1 and line.startswith(b"version https://git-lfs"):
        return "this is a git-lfs pointer, not the vocabulary", "run `git lfs pull`"
    if line.endswith(b"\r"):
        return "ends with a carriage return", "convert the line endings to LF (dos2unix)"
    if not line.isascii():
        return "contains non-ASCII bytes", _AGAIN
    if not line.strip():
        return "empty line", "remove it"
    if line.startswith(b" "):
        return "empty token", _AGAIN
    return f"not `base64 rank`: {line[:60].decode('ascii')!r}", _AGAIN
