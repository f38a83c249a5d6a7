"""The two files of a batch: requests, one a line, and their answers, of which a run that was stopped left some.

    IN   {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    OUT  {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, ..., "body": {...}}, "error": null}

Neither file is ever in memory as a whole: of a line only a hash of its id is kept, 8 bytes.
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

MAX_LINE_BYTES = 16 << 20  # of a request; a longer line is an error of that line
NUM_SHOWN = 5  # duplicates that an error lists
ENTRY_START = b'{"id": "batch_req_'


@dataclass(frozen=True)
class BatchLine:
    """A line of IN; `raw` ends after MAX_LINE_BYTES, and is then longer than these."""

    number: int  # from 1
    raw: bytes

    @property
    def is_too_long(self) -> bool:
        return len(self.raw) > MAX_LINE_BYTES

    def parse(self) -> Any:
        """The line's JSON; ValueError where it is none."""
        if self.is_too_long:
            raise ValueError(f"the line has more than {MAX_LINE_BYTES} bytes")
        return parse_json(self.raw)

    @property
    def id_hash(self) -> int:
        """Hash of the custom_id, 0 where there is none."""
        try:
            content = self.parse()
        except ValueError:
            return 0
        custom_id = content.get("custom_id") if isinstance(content, dict) else None
        return hash_id(custom_id) if isinstance(custom_id, str) else 0


def open_input(path: Path | None) -> BinaryIO:
    """IN, so that it can be read more than once: a pipe or standard input (None) is copied to a disk first."""
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
    """The file, or where its byte order mark says UTF-16 or UTF-32 a copy in UTF-8."""
    encoding = marked_encoding(file.read(4))
    file.seek(0)
    if encoding in (None, "utf-8-sig"):  # the first line may keep a mark of UTF-8
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
    """64 bits that are not all zero: two of a million ids share them once in 37 million files."""
    digest = hashlib.blake2b(custom_id.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


class BatchInput:
    """The lines of IN that are not empty, in order; they can be read again and again."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Reads all lines once; SettingError where a custom_id comes twice, with the lines."""
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
        """Those lines, read as they are asked for."""
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
            f"{custom_id!r:.60} in the lines {', '.join(map(str, numbers[:NUM_SHOWN]))}"
            for custom_id, numbers in places.items()
        ]
        more = f" and {len(repeated) - len(shown)} more" if len(repeated) > len(shown) else ""
        raise SettingError(f"{name}: a custom_id comes more than once: {'; '.join(shown)}{more}; give each its own")


class AnswerFile:
    """OUT. What is no regular file (standard output, a pipe) is only written to.

    A line that was begun and not ended is cut off; failures are taken out, so that their requests are tried again.
    """

    def __init__(self, path: Path | None) -> None:
        """None: standard output. SettingError where the file holds something else or another run writes it; OSError."""
        self.answered: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)  # hashes of the ids that have an answer
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
        """Adds an entry; what was added before is in the file already. OSError where there is no room."""
        try:
            self._file.write(entry_line(entry))
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        if self._file is not sys.stdout.buffer:
            with suppress(OSError):  # all is flushed: what fails here has failed in write
                self._file.close()

    def _open(self) -> BinaryIO:
        if not self.is_regular:
            return open(self._path, "wb")
        # Made where it is missing, and not truncated where it is there, which no mode of open() does.
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
            raise SettingError(f"{self._path}: another run is writing it; wait for it, or give another file") from error

    def _read(self) -> tuple[array[int], int, int, bool]:
        """Hashes of the ids that have answers, the number of failures, where the last whole entry ends, and whether
        it lacks its newline."""
        hashes, num_failed, end, raw = array("Q"), 0, 0, b"\n"
        for number, raw in enumerate(self._file, start=1):
            entry = _parse_entry(raw)
            if entry is None:
                is_half = not raw.endswith(b"\n") and (raw.startswith(ENTRY_START) or ENTRY_START.startswith(raw))
                if is_half:
                    return hashes, num_failed, end, False
                raise SettingError(f"{self._path}: line {number} is not an answer of a batch; give another file")
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
    """Whether an entry holds what was asked for, and no error."""
    response = entry["response"]
    return isinstance(response, dict) and response.get("status_code") == 200 and isinstance(entry["custom_id"], str)


def entry_line(entry: dict[str, Any]) -> bytes:
    """An entry of OUT, its newline included; begins with ENTRY_START."""
    # Half of a surrogate pair cannot be UTF-8; its backslash form is what JSON writes for it.
    line = json_line(entry).encode("utf-8", "backslashreplace") + b"\n"
    assert line.startswith(ENTRY_START), "by this a half line is recognised"
    return line


def _parse_entry(raw: bytes) -> dict[str, Any] | None:
    """An entry of OUT; None where a line is none."""
    if not raw.startswith(ENTRY_START):
        return None
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    is_entry = isinstance(entry, dict) and "custom_id" in entry and "response" in entry
    return entry if is_entry else None
