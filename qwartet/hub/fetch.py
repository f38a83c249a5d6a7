"""Download of one file from a hub: resumed where it broke off, hashed on the disk, renamed into place when verified.

A file is gathered in `<name>.incomplete`. Ctrl-C, a crash or a lost connection leave that file, and the next run asks
for the rest. A rename gives the file its name once the bytes on the disk have the hash that the hub lists, so wrong
bytes never get the name. A file for which the hub lists no hash is checked by its size alone, so it is only assembled
from responses that name the same version of it. huggingface_hub's own transfer restarts a file in each run and compares
only its size.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from qwartet.errors import DownloadError, DownloadWarning
from qwartet.hub.answers import TryAgain, body_of, content_coding, response_to
from qwartet.hub.listing import RemoteFile
from qwartet.hub.snapshot import unfinished

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each new attempt; progress resets the count."""
LONGEST_PAUSE_S = 60.0  # that a hub can ask for
NO_SUCH_RANGE = 416  # HTTP's status

T = TypeVar("T")


class Stopped(Exception):
    """The download of the model was stopped, so that of this file ends too."""


class GivenUp(Exception):
    """Several attempts in a row failed; `what` was asked for, `cause` ended the last attempt."""

    def __init__(self, what: str, cause: Exception, num_attempts: int) -> None:
        super().__init__(f"{what}: {reason_of(cause)}, {num_attempts} attempts")
        self.what, self.cause, self.num_attempts = what, cause, num_attempts


@dataclass(frozen=True)
class Transfer:
    """What the files of one model have in common."""

    headers: Mapping[str, str]
    on_bytes: Callable[[int], None]  # called with the number of new bytes, negative when some are discarded; may raise
    stop: Event  # ends the pause before a new attempt


def fetch_file(file: RemoteFile, target: Path, transfer: Transfer) -> str:
    """Downloads a file to `target` and returns its SHA-256.

    GivenUp when the hub does not deliver, DownloadError when the bytes are not those that it lists, the HTTP client's
    exceptions when it refuses, OSError from the disk.
    """
    with _Gathered(unfinished(target), file, transfer) as gathered:
        _gather(file, gathered, transfer)
        if (sha256 := gathered.right_sha256()) is None:
            text = f"{file.name}: wrong hash, not the one that the hub lists; downloading it again from the start"
            warnings.warn(text, DownloadWarning, stacklevel=2)
            gathered.restart()
            _gather(file, gathered, transfer)
            sha256 = gathered.right_sha256()
        if sha256 is None:
            gathered.restart()
            raise DownloadError(
                f"{file.name}: wrong hash twice, not the one that the hub lists; the file was discarded. Something "
                "between here and the hub changes files: try again later, or with another HF_ENDPOINT or --source"
            )
    os.replace(gathered.path, target)
    return sha256


class _Gathered:
    """The bytes of a file that have arrived so far."""

    def __init__(self, path: Path, file: RemoteFile, transfer: Transfer) -> None:
        self.path = path
        self.num_bytes = 0
        self._file, self._transfer = file, transfer
        self._version: str | None = None  # the hub's name for these bytes, where it lists no hash of them
        self._stream = path.open("a+b")

    def __enter__(self) -> _Gathered:
        size = os.fstat(self._stream.fileno()).st_size
        if size > self._file.size or not self._file.has_hash:
            self._stream.truncate(0)
            size = 0
        self.num_bytes = size
        self._transfer.on_bytes(size)
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def right_sha256(self) -> str | None:
        """SHA-256 of the bytes on the disk; None where they are not what the hub lists."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        with_git = self._file.sha256 is None
        hashes = hash_file(self.path, with_git=with_git, on_bytes=lambda _: self._transfer.on_bytes(0))
        is_right = hashes.num_bytes == self._file.size and hashes.match(self._file.sha256, self._file.git_sha1)
        return hashes.sha256 if is_right else None

    def begin(self, response: Any) -> None:
        """Makes sure that a response continues these bytes; TryAgain, with nothing kept, where it cannot."""
        begin, is_part = self.num_bytes, response.status_code == 206
        placed = response.headers.get("Content-Range", "").strip().lower()
        commit = response.headers.get("X-Repo-Commit")
        version = commit or response.headers.get("ETag")
        if is_part and not placed.startswith(f"bytes {begin}-"):
            self.restart()
            raise TryAgain("the hub sent another range than requested")
        if is_part and not placed.endswith((f"/{self._file.size}", "/*")):
            self.restart()
            raise TryAgain(f"the hub sent a range of a file that does not have the listed {self._file.size} bytes")
        if is_part and content_coding(response):
            self.restart()  # it is a range of the compressed bytes
            raise TryAgain("a proxy compresses what the hub sends")
        if is_part and begin and not self._file.has_hash and (version is None or version != self._version):
            self.restart()
            raise TryAgain("the hub may have another version of the file by now")
        if commit and not self._file.has_hash and commit not in self._file.url:
            reason = "the hub sent it from another commit than it listed, without a hash to compare"
            raise DownloadError(f"{self._file.name}: {reason}; run it again, or set another HF_ENDPOINT or --source")
        if begin and not is_part:
            self.restart()  # the response is the complete file
        self._version = version

    def append(self, piece: bytes) -> None:
        if self.num_bytes + len(piece) > self._file.size:
            self.restart()
            raise TryAgain(f"the hub sent more than the listed {self._file.size} bytes")
        self._stream.write(piece)
        self.num_bytes += len(piece)
        self._transfer.on_bytes(len(piece))

    def restart(self) -> None:
        """Discards all bytes."""
        self._transfer.on_bytes(-self.num_bytes)
        self._stream.truncate(0)
        self.num_bytes = 0


def _gather(file: RemoteFile, gathered: _Gathered, transfer: Transfer) -> None:
    """Asks for the missing bytes until none are missing; GivenUp when several attempts in a row bring nothing."""
    num_failures, furthest = 0, gathered.num_bytes
    is_missing = gathered.num_bytes < file.size or not file.has_hash  # only a request shows that a file is empty
    while is_missing:
        try:
            _receive(file, gathered, transfer)
            error: Exception = TryAgain("the hub closed the connection early")
        except Exception as caught:
            if not _is_temporary(caught):
                raise
            error = caught
            is_missing = gathered.num_bytes < file.size or file.size == 0
        else:
            is_missing = gathered.num_bytes < file.size
        if not is_missing:
            return  # also where the connection broke after the last byte
        if gathered.num_bytes > furthest:
            num_failures, furthest = 0, gathered.num_bytes
        _pause(num_failures, error, file.name, transfer.stop)
        num_failures += 1


def _receive(file: RemoteFile, gathered: _Gathered, transfer: Transfer) -> None:
    """One request for the missing bytes."""
    begin = gathered.num_bytes
    headers = {**transfer.headers, "Range": f"bytes={begin}-"} if begin else transfer.headers
    with response_to(file.url, headers, NO_SUCH_RANGE) as response:
        if response.status_code == NO_SUCH_RANGE:
            gathered.restart()
            raise TryAgain(f"the hub has fewer than the listed {file.size} bytes")
        pieces = body_of(response, file.name)
        gathered.begin(response)
        for piece in pieces:
            gathered.append(piece)


def patiently(ask: Callable[[], T], what: str) -> T:
    """Result of a request to a hub, repeated while it is busy, but not when it cannot be reached at all; GivenUp."""
    num_failures, stop = 0, Event()
    while True:
        try:
            return ask()
        except Exception as error:
            if not _is_temporary(error) or _is_unreachable(error):
                raise
            _pause(num_failures, error, what, stop)
            num_failures += 1


def _pause(num_failures: int, error: Exception, what: str, stop: Event) -> None:
    """Waits before a new attempt; GivenUp when there were enough of them."""
    if num_failures >= len(PAUSES_S):
        raise GivenUp(what, error, num_failures + 1) from error
    pause = max(PAUSES_S[num_failures], min(_asked_pause(error), LONGEST_PAUSE_S))
    warnings.warn(f"{what}: {reason_of(error)}; trying again in {pause:g} s", DownloadWarning, stacklevel=3)
    if stop.wait(pause):
        raise Stopped


def _asked_pause(error: Exception) -> float:
    response: Any = getattr(error, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() and len(asked) < 6 else 0.0


def _is_temporary(error: Exception) -> bool:
    """Whether a new attempt may succeed: the hub is busy or failing, or the connection broke."""
    response: Any = getattr(error, "response", None)
    if response is not None:
        return response.status_code in (408, 429) or response.status_code >= 500
    return isinstance(error, TryAgain) or (is_of_the_connection(error) and not _is_a(error, "UnsupportedProtocol"))


def is_of_the_connection(error: Exception) -> bool:
    """Whether no response came, or not all of one: name lookup, connection, TLS, proxy, time limit."""
    return _is_a(error, "TransportError")


def _is_unreachable(error: Exception) -> bool:
    return _is_a(error, "ConnectError") or _is_a(error, "ConnectTimeout") or _is_a(error, "ProxyError")


def _is_a(error: Exception, name: str) -> bool:
    """By the name of a class of the HTTP client, which huggingface_hub has changed before."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def reason_of(error: BaseException) -> str:
    """One short line about an exception."""
    if isinstance(error, TryAgain):
        return str(error)
    response: Any = getattr(error, "response", None)
    if response is not None:
        return f"status {response.status_code} {response.reason_phrase}".strip()
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:200]}..."


PIECE_BYTES = 2**22


class FileHashes:
    """The hashes of a file of `size` bytes, computed piece by piece."""

    def __init__(self, size: int, *, with_git: bool) -> None:
        self.num_bytes = 0
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False) if with_git else None

    def update(self, piece: bytes) -> None:
        self.num_bytes += len(piece)
        self._sha256.update(piece)
        if self._git is not None:
            self._git.update(piece)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def match(self, sha256: str | None, git_sha1: str | None) -> bool:
        """Whether these are the expected hashes; True where none are."""
        if sha256 is not None:
            return self.sha256 == sha256
        return git_sha1 is None or (self._git is not None and self._git.hexdigest() == git_sha1)


def hash_file(path: Path, *, with_git: bool, on_bytes: Callable[[int], None]) -> FileHashes:
    """Reads a file once; `on_bytes` is called with the size of each piece."""
    with path.open("rb") as file:
        hashes = FileHashes(os.fstat(file.fileno()).st_size, with_git=with_git)
        while piece := file.read(PIECE_BYTES):
            hashes.update(piece)
            on_bytes(len(piece))
    return hashes
