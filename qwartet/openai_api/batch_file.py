"""The two files of a batch: requests, one per line, and answers, possibly left over from an interrupted run.

    IN   {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    OUT  {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, ..., "body": {...}}, "error": null}

Neither file is ever held in memory: only an 8-byte hash of each line's id is kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from qwartet.errors import SettingError
from qwartet.files import atomic_write, marked_encoding
from qwartet.inert_text import json_line
from qwartet.openai_api.json_body import parse_json

MAX_LINE_BYTES = 16 << 20  # of a request; a longer line fails on its own
NUM_SHOWN = 5  # duplicates that an error lists
ENTRY_START = b'{"id": "batch_req_'


@dataclass(frozen=True)
class BatchLine:
    """A line of IN; a longer one than MAX_LINE_BYTES is cut after one more byte."""

    number: int  # from 1
    raw: bytes

    @property
    def is_too_long(self) -> bool:
        return len(self.raw) > MAX_LINE_BYTES

    def parse(self) -> Any:
        """The line's JSON; ValueError if it is invalid."""
        if self.is_too_long:
            raise ValueError(f"the line has more than {MAX_LINE_BYTES} bytes")
        return parse_json(self.raw)

    @property
    def id_hash(self) -> int:
        """Hash of the custom_id, 0 if there is none."""
        try:
            content = self.parse()
        except ValueError:
            return 0
        custom_id = content.get("custom_id") if isinstance(content, dict) else None
        return hash_id(custom_id) if isinstance(custom_id, str) else 0


def open_input(path: Path | None) -> BinaryIO:
    """IN, rereadable: a pipe or standard input (None) is copied to disk first."""
    file: BinaryIO
    if path is not None and not stat.S_ISFIFO(path.stat().st_mode):
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    else:
        file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
        with sys.stdin.buffer if path is None else open(path, "rb") as source:
            shutil.copyfileobj(source, file)
        file.seek(0)
    return _in_utf8(file, "standard input" if path is None else str(path))


def _in_utf8(file: BinaryIO, name: str) -> BinaryIO:
    """The file, or a copy in UTF-8 if its byte order mark says UTF-16 or UTF-32."""
    encoding = marked_encoding(file.read(4))
    file.seek(0)
    if encoding in (None, "utf-8-sig"):  # a UTF-8 mark may stay in the first line
        return file
    copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    try:
        with io.TextIOWrapper(file, encoding=encoding, newline="") as text:
            while piece := text.read(2**20):
                copy.write(piece.encode())
    except UnicodeError as error:
        copy.close()
        raise SettingError(f"{name}: {error}; save it as UTF-8 text") from None
    copy.seek(0)
    return copy


def hash_id(custom_id: str) -> int:
    """A non-zero 64-bit hash: with a million ids, one file in 37 million has a collision."""
    digest = hashlib.blake2b(custom_id.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


class BatchInput:
    """The non-empty lines of IN, in order; they can be read repeatedly."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Reads all lines once; SettingError with the line numbers if a custom_id is duplicated."""
        self._file = file
        self._id_hashes: NDArray[np.uint64] = np.array(array("Q", (line.id_hash for line in self._lines())))
        self._refuse_duplicates(name)

    @property
    def num_lines(self) -> int:
        return len(self._id_hashes)

    def count_unanswered(self, answered: NDArray[np.uint64]) -> int:
        """How many lines have no id among the hashes `answered`."""
        return int((~np.isin(self._id_hashes, answered)).sum())

    def unanswered(self, answered: NDArray[np.uint64]) -> Iterator[BatchLine]:
        """Those lines, read lazily."""
        for line, is_answered in zip(self._lines(), np.isin(self._id_hashes, answered), strict=False):
            if not is_answered:
                yield line

    def _lines(self) -> Iterator[BatchLine]:
        self._file.seek(0)
        number = 0
        while raw := self._file.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = raw
            while not rest.endswith(b"\n") and (rest := self._file.readline(MAX_LINE_BYTES + 1)):
                pass
            if not raw.isspace():
                yield BatchLine(number, raw)

    def _refuse_duplicates(self, name: str) -> None:
        hashes = np.sort(self._id_hashes[self._id_hashes > 0])
        repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not repeated:
            return
        places: dict[str, list[int]] = {}
        for line, id_hash in zip(self._lines(), self._id_hashes.tolist(), strict=False):
            if id_hash in repeated:
                custom_id = line.parse()["custom_id"]
                if custom_id in places or len(places) < NUM_SHOWN:
                    places.setdefault(custom_id, []).append(line.number)
        shown = [
            f"{custom_id!r:.60} on lines {', '.join(map(str, numbers[:NUM_SHOWN]))}"
            for custom_id, numbers in places.items()
        ]
        more = f" and {len(repeated) - len(shown)} more" if len(repeated) > len(shown) else ""
        raise SettingError(f"{name}: duplicate custom_id: {'; '.join(shown)}{more}; make each one unique")


class AnswerFile:
    """OUT. If it is not a regular file (standard output, a pipe), it is only written to.

    An incomplete last line is cut off; failures are removed, so that their requests are tried again.
    """

    def __init__(self, path: Path | None) -> None:
        """None: standard output. SettingError if the file holds anything else or another run is writing it; OSError."""
        self.answered: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)  # hashes of the answered ids
        self._path = path or Path("-")
        self.is_regular = path is not None and (path.is_file() or not path.exists())
        self._file = sys.stdout.buffer if path is None else self._open()
        if self.is_regular:
            try:
                self._resume()
            except BaseException:
                self._file.close()
                raise

    def write(self, entry: dict[str, Any]) -> None:
        """Adds an entry; earlier ones are in the file already. OSError if the disk is full."""
        try:
            self._file.write(entry_line(entry))
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        if self._file is not sys.stdout.buffer:
            with suppress(OSError):  # everything is flushed: what fails here has failed in write
                self._file.close()

    def _open(self) -> BinaryIO:
        if not self.is_regular:
            return open(self._path, "wb")
        # Creates a missing file and does not truncate an existing one, which no mode of open() does.
        return os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")

    def _resume(self) -> None:
        self._lock()
        hashes, num_failed, end, needs_newline = self._read()
        self._file.seek(end)
        self._file.truncate()
        if needs_newline:
            self._file.write(b"\n")
        self.answered = np.array(hashes)
        if num_failed:
            self._drop_failures()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingError(f"{self._path}: another run is writing it; wait or choose another file") from error

    def _read(self) -> tuple[array[int], int, int, bool]:
        """Hashes of the answered ids, the number of failures, where the last complete entry ends, and whether its
        newline is missing."""
        hashes, num_failed, end, raw = array("Q"), 0, 0, b"\n"
        for number, raw in enumerate(self._file, start=1):
            entry = _parse_entry(raw)
            if entry is None:
                is_half = not raw.endswith(b"\n") and (raw.startswith(ENTRY_START) or ENTRY_START.startswith(raw))
                if is_half:
                    return hashes, num_failed, end, False
                raise SettingError(f"{self._path}: line {number} is not a batch answer; choose another file")
            end += len(raw)
            if is_answer(entry):
                hashes.append(hash_id(entry["custom_id"]))
            else:
                num_failed += 1
        return hashes, num_failed, end, not raw.endswith(b"\n")

    def _drop_failures(self) -> None:
        path = Path(os.path.realpath(self._path))  # a link stays one
        with atomic_write(path) as new_path:
            with open(new_path, "xb") as new:
                self._file.seek(0)
                for raw in self._file:
                    entry = _parse_entry(raw)
                    if entry is not None and is_answer(entry):
                        new.write(raw)
                new.flush()
                os.fsync(new.fileno())
            shutil.copymode(path, new_path)
        self._file.close()
        self._file = self._open()
        self._lock()
        self._file.seek(0, os.SEEK_END)


def is_answer(entry: dict[str, Any]) -> bool:
    """Whether an entry holds an answer, not an error."""
    response = entry["response"]
    return isinstance(response, dict) and response.get("status_code") == 200 and isinstance(entry["custom_id"], str)


def entry_line(entry: dict[str, Any]) -> bytes:
    """An entry of OUT with its newline; it begins with ENTRY_START."""
    # UTF-8 cannot encode an unpaired surrogate; its backslash form is its JSON escape.
    line = json_line(entry).encode("utf-8", "backslashreplace") + b"\n"
    assert line.startswith(ENTRY_START), "an incomplete line is recognised by this"
    return line


def _parse_entry(raw: bytes) -> dict[str, Any] | None:
    """An entry of OUT; None for any other line."""
    if not raw.startswith(ENTRY_START):
        return None
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    is_entry = isinstance(entry, dict) and "custom_id" in entry and "response" in entry
    return entry if is_entry else None
