"""The bytes of a file, from a hub to the disk: resumed where they broke off, hashed while they pass, named when right.

A file is gathered in `<name>.incomplete`. Ctrl-C, a crash or a cut leave that, and the next run asks for the rest. It
gets its name by a rename, after its hash was found to be the one that the hub lists: wrong bytes never get it.
huggingface_hub's own transfer begins a file anew in each run and compares its size only.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from qwartet.errors import DownloadError, DownloadWarning
from qwartet.hub.listing import RemoteFile
from qwartet.hub.snapshot import unfinished

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each new attempt; progress begins the count anew."""
LONGEST_PAUSE_S = 60.0  # that a hub may ask for
NO_SUCH_RANGE = 416  # HTTP's status

T = TypeVar("T")


class Stopped(Exception):
    """The model's download was given up; this file's ends too."""


class _TryAgain(Exception):
    """An answer that may be right next time."""


@dataclass(frozen=True)
class Transfer:
    """What the files of one model have in common."""

    headers: Mapping[str, str]
    on_bytes: Callable[[int], None]  # hears how many bytes more are here, below 0 where some are thrown away; may raise
    stop: Event  # ends the wait for a new attempt


def fetch_file(file: RemoteFile, target: Path, transfer: Transfer) -> str:
    """Downloads a file to `target` and returns its SHA-256.

    DownloadError when the hub does not deliver, or delivers other bytes than it lists; the client's exceptions when it
    refuses; OSError of the disk.
    """
    gathered = _Gathered(unfinished(target), file, transfer)
    with gathered:
        _gather(file, gathered, transfer)
        if not gathered.is_right:
            text = f"{file.name}: the bytes do not have the hash that the hub lists; fetching it again from the start"
            warnings.warn(text, DownloadWarning, stacklevel=2)
            gathered.restart()
            _gather(file, gathered, transfer)
        if not gathered.is_right:
            gathered.restart()
            raise DownloadError(
                f"{file.name}: the bytes do not have the hash that the hub lists, twice; they were thrown away. Try "
                "another time, or another HF_ENDPOINT or --source: something between here and the hub changes files"
            )
        gathered.sync()
    os.replace(gathered.path, target)
    return gathered.sha256


class _Gathered:
    """The bytes of a file that are here so far, and their hashes."""

    def __init__(self, path: Path, file: RemoteFile, transfer: Transfer) -> None:
        self.path = path
        self._file, self._transfer = file, transfer
        self._hashes = self._new_hashes()
        self._stream = path.open("a+b")

    def __enter__(self) -> None:
        self._stream.seek(0)
        if os.fstat(self._stream.fileno()).st_size > self._file.size:
            self._stream.truncate(0)
        while piece := self._stream.read(PIECE_BYTES):
            self._hashes.update(piece)
        self._transfer.on_bytes(self.num_bytes)

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _new_hashes(self) -> FileHashes:
        return FileHashes(self._file.size, with_git=self._file.sha256 is None)

    @property
    def num_bytes(self) -> int:
        return self._hashes.num_bytes

    @property
    def sha256(self) -> str:
        return self._hashes.sha256

    @property
    def is_right(self) -> bool:
        return self._hashes.match(self._file.sha256, self._file.git_sha1)

    def append(self, piece: bytes) -> None:
        if self.num_bytes + len(piece) > self._file.size:
            self.restart()
            raise _TryAgain(f"the hub sends more than the {self._file.size} bytes that it lists")
        self._stream.write(piece)
        self._hashes.update(piece)
        self._transfer.on_bytes(len(piece))

    def restart(self) -> None:
        """Throws all away."""
        self._transfer.on_bytes(-self.num_bytes)
        self._stream.truncate(0)
        self._hashes = self._new_hashes()

    def sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())


def _gather(file: RemoteFile, gathered: _Gathered, transfer: Transfer) -> None:
    """Asks for what is missing until nothing is; DownloadError when several attempts in turn bring nothing."""
    num_failures, furthest = 0, gathered.num_bytes
    while gathered.num_bytes < file.size:
        try:
            _receive(file, gathered, transfer)
            error: Exception = _TryAgain("the hub ended early")
        except Exception as caught:
            if not _may_pass(caught):
                raise
            error = caught
        if gathered.num_bytes >= file.size:
            return  # the connection broke, but after the last byte
        if gathered.num_bytes > furthest:
            num_failures, furthest = 0, gathered.num_bytes
        _pause(num_failures, error, file.name, transfer.stop)
        num_failures += 1


def _receive(file: RemoteFile, gathered: _Gathered, transfer: Transfer) -> None:
    """One request for the bytes that are missing."""
    begin = gathered.num_bytes
    headers = {**transfer.headers, "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    with response_to(file.url, headers, NO_SUCH_RANGE) as response:
        if response.status_code == NO_SUCH_RANGE:
            gathered.restart()
            raise _TryAgain(f"the hub has fewer than the {file.size} bytes that it lists")
        if begin and response.status_code != 206:
            gathered.restart()  # it sends the whole file
        elif begin and not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            gathered.restart()
            raise _TryAgain("the hub sends another part than was asked for")
        for piece in response.iter_raw():
            gathered.append(piece)


@contextmanager
def response_to(url: str, headers: Mapping[str, str], *expected: int) -> Iterator[Any]:
    """The response to a GET, its body unread; the client's exceptions for a refusal whose status is not expected."""
    from huggingface_hub import constants, get_session, hf_raise_for_status

    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.status_code not in expected:
            hf_raise_for_status(response)
        yield response


def patiently(ask: Callable[[], T], what: str) -> T:
    """Result of a question to a hub, asked again when it is busy; not when it cannot be reached at all."""
    num_failures, stop = 0, Event()
    while True:
        try:
            return ask()
        except Exception as error:
            if not _may_pass(error) or _is_unreachable(error):
                raise
            _pause(num_failures, error, what, stop)
            num_failures += 1


def _pause(num_failures: int, error: Exception, what: str, stop: Event) -> None:
    """Waits before a new attempt; DownloadError when there were enough of them."""
    if num_failures >= len(PAUSES_S):
        hint = "run it again: what is here already is kept"
        raise DownloadError(f"{what}: {reason_of(error)}, {num_failures + 1} times in turn; {hint}") from error
    pause = max(PAUSES_S[num_failures], min(_asked_pause(error), LONGEST_PAUSE_S))
    warnings.warn(f"{what}: {reason_of(error)}; trying again in {pause:g} s", DownloadWarning, stacklevel=3)
    if stop.wait(pause):
        raise Stopped


def _asked_pause(error: Exception) -> float:
    response: Any = getattr(error, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() and len(asked) < 6 else 0.0


def _may_pass(error: Exception) -> bool:
    """Whether a new attempt may bring more: the hub is busy or ill, or the connection broke."""
    response: Any = getattr(error, "response", None)
    if response is not None:
        return response.status_code in (408, 429) or response.status_code >= 500
    return isinstance(error, _TryAgain) or (_is_a(error, "TransportError") and not _is_a(error, "UnsupportedProtocol"))


def _is_unreachable(error: Exception) -> bool:
    return _is_a(error, "ConnectError") or _is_a(error, "ConnectTimeout") or _is_a(error, "ProxyError")


def _is_a(error: Exception, name: str) -> bool:
    """By the name of a class of the HTTP client, which huggingface_hub has changed before."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def reason_of(error: BaseException) -> str:
    """One short line about an exception."""
    if isinstance(error, _TryAgain):
        return str(error)
    response: Any = getattr(error, "response", None)
    if response is not None:
        return f"the hub answers {response.status_code} {response.reason_phrase}".strip()
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:200]}..."


PIECE_BYTES = 2**22


class FileHashes:
    """The hashes of a file of `size` bytes, taken while its bytes pass."""

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
        """Whether these are the hashes of what was expected; True where nothing was."""
        if sha256 is not None:
            return self.sha256 == sha256
        return git_sha1 is None or (self._git is not None and self._git.hexdigest() == git_sha1)


def hash_file(path: Path, *, with_git: bool, on_bytes: Callable[[int], None]) -> FileHashes:
    """Reads a file once; `on_bytes` hears how many bytes more are read."""
    with path.open("rb") as file:
        hashes = FileHashes(os.fstat(file.fileno()).st_size, with_git=with_git)
        while piece := file.read(PIECE_BYTES):
            hashes.update(piece)
            on_bytes(len(piece))
    return hashes
