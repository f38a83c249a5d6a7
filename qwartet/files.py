"""Files that appear whole or not at all, and where Qwartet keeps its own."""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qwartet.errors import SettingError


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
