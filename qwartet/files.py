"""Files that appear whole or not at all, and where Qwartet keeps its own."""

from __future__ import annotations

import codecs
import errno
import fcntl
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
_TO_UTF8 = "convert it: iconv -f GB18030 -t UTF-8 OLD > NEW (or the encoding it has, such as LATIN1 or UTF-16LE)"


def marked_encoding(content: bytes) -> str | None:
    """The encoding that a byte order mark at the beginning says."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)


def decode_text(content: bytes) -> str:
    """The text of a file or pipe: UTF-8, or what its byte order mark says; the mark is no part of the text.

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
    """SettingError with both figures when the disk that `target` will lie on has less than `num_bytes` free."""
    place = next(path for path in (target, *target.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        raise SettingError(f"{target} takes {num_bytes / 1e9:.1f} GB and {free / 1e9:.1f} GB are free there; {hint}")


_KINDS = (
    (stat.S_ISREG, "a file"), (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


def kind_of(path: Path) -> str | None:
    """What has this name, links followed: "a file", "a directory", "a pipe", "a link that leads nowhere", ...; None for
    nothing. Opens nothing, so it never waits; OSError where the system does not say.
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
    """A path beside `target`, at which the block makes a file or a directory; at the end it takes the target's name.

    Whatever ends the block early, Ctrl-C included, removes what was made. Parents are made; an empty directory at
    `target` is replaced by a directory, a file by a file.
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


_CANNOT_LOCK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def locked(path: Path, on_busy: Callable[[], None]) -> Iterator[None]:
    """While the block runs, no other process and no other thread runs one for the same path, a file made for this.

    `on_busy` is called where one does: it raises, or the block waits. A process that is killed gives its lock back.
    Where the disk allows no locks, or is read-only, there is none.
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
            path.unlink(missing_ok=True)  # before it is given back: who waited sees that it has another file
            os.close(descriptor)


def _lock(path: Path, on_busy: Callable[[], None]) -> int:
    """Descriptor of the locked file that has the path's name, not of one that its last holder has removed."""
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
    """Where is kept what only its user can make again, as lines that were entered: $XDG_STATE_HOME/qwartet, else
    ~/.local/state/qwartet; it need not exist yet.
    """
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "qwartet"


def disk_read_speed(path: Path, num_bytes: int = 2**27) -> float | None:
    """Bytes a second that the disk gives when a file is read past the system's memory; None where it cannot be."""
    piece = mmap.mmap(-1, 2**24)  # page-aligned, as direct reading wants it
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
