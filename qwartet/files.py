"""Atomic writes, locks, decoding of text, names from elsewhere, and the directories where Qwartet keeps its files."""

from __future__ import annotations

import codecs
import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwartet.errors import SettingError

# UTF-32 first: its mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_TO_UTF8 = "convert it: iconv -f GB18030 -t UTF-8 OLD > NEW (or its actual encoding, such as LATIN1 or UTF-16LE)"


def marked_encoding(content: bytes) -> str | None:
    """The encoding that a leading byte order mark declares."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)


def decode_text(content: bytes) -> str:
    """The text of a file or pipe: UTF-8, or as its byte order mark declares; the mark is dropped.

    ValueError, with the offset and what to do, for bytes in another encoding: nothing is replaced.
    """
    encoding = marked_encoding(content) or "utf-8"
    if encoding == "utf-8" and content[:4096].count(0) * 4 >= len(content[:4096]) > 0:
        raise ValueError(f"looks like UTF-16 without a byte order mark; {_TO_UTF8}")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        line = content.count(b"\n", 0, error.start) + 1
        place = f"byte {error.start} (0x{content[error.start]:02x})"
        place = f"line {line}, {place}" if name == "UTF-8" else place
        raise ValueError(f"{place} is not {name} text; {_TO_UTF8}") from None


def check_free_space(target: Path, num_bytes: int, hint: str = "choose another disk, or a smaller model") -> None:
    """SettingError with both figures if the disk of `target` has less than `num_bytes` free."""
    place = next(path for path in (target, *target.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        sizes = f"needs {num_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there"
        raise SettingError(f"{target} {sizes}; {hint}")


_KINDS = (
    (stat.S_ISREG, "a file"), (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


def leads_out(name: object) -> bool:
    """Whether a name from elsewhere, joined to a directory, may lead out of it, on any system, or hides what it is."""
    if not isinstance(name, str) or not name.isprintable() or "\\" in name or name[1:2] == ":":
        return True
    return any(part in ("", ".", "..") for part in name.split("/"))


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kind_of(path: Path) -> str | None:
    """What a path is, links followed: "a file", "a directory", "a pipe", "a link that leads nowhere", ...; None if it
    does not exist. Opens nothing, so it never waits; OSError if the system does not tell.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a link that leads nowhere" if path.is_symlink() else None
    except (OSError, RuntimeError):
        if path.is_symlink():  # links that lead in a circle
            return "a link that leads nowhere"
        raise
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device")


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A path next to `target`, where the block creates a file or a directory; at the end it is renamed to `target`.

    Whatever ends the block early, Ctrl-C included, removes what it created. Parents are created; a directory replaces
    an empty directory at `target`, a file replaces a file.
    """
    path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield path
        path.rename(target)
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory next to `target`, which the block fills; at the end it is renamed to `target`, which must not exist.

    Whatever ends the block early removes it; what a killed process left is removed by the next one for the same target.
    SettingError if the target exists, or another process is writing it.
    """

    def on_busy() -> None:
        raise SettingError(f"{target}: another process is writing it; wait until that ends, or choose another name")

    path = target.with_name(f".{target.name}.unfinished")
    with locked(target.with_name(f".{target.name}.lock"), on_busy):
        if os.path.lexists(target):
            raise SettingError(f"{target} exists; choose another name, or remove it")
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            yield path
            path.rename(target)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


_CANNOT_LOCK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def locked(path: Path, on_busy: Callable[[], None]) -> Iterator[None]:
    """While the block runs, no other process or thread runs one for the same path, which is a file made for the lock.

    `on_busy` is called if one does: it raises, or the block waits. A process that is killed releases its lock. Where
    the disk supports no locks, or is read-only, nothing is locked.
    """
    descriptor: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path, on_busy)
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)  # before the release: a waiting process sees that it has locked a removed file
            os.close(descriptor)


def _lock(path: Path, on_busy: Callable[[], None]) -> int:
    """Descriptor of the locked file at this path, not of one that its last holder has removed."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_busy()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # the last holder has removed it meanwhile
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def cache_directory() -> Path:
    """$QWARTET_CACHE, else $XDG_CACHE_HOME/qwartet, else ~/.cache/qwartet; it need not exist yet."""
    if own := os.environ.get("QWARTET_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qwartet"


def state_directory() -> Path:
    """Directory for what cannot be rebuilt, such as input history: $XDG_STATE_HOME/qwartet, else
    ~/.local/state/qwartet; it need not exist yet.
    """
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "qwartet"


def disk_read_speed(path: Path, num_bytes: int = 2**27) -> float | None:
    """Bytes per second when a file is read from disk past the page cache; None if that is not possible."""
    piece = mmap.mmap(-1, 2**24)  # page-aligned, as direct I/O requires
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except (OSError, AttributeError):
        return None
    try:
        started, done = time.perf_counter(), 0
        while done < num_bytes and (count := os.preadv(descriptor, [piece], done)) > 0:
            done += count
        return done / (time.perf_counter() - started) if done else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
