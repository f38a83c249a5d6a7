"""The directory of packed weights: may what lies there be used, and what of it has a killed process left?

Whoever can write a cache file, or put another in its place, decides what the model says. So the file, the directory and
those above it have to be ours or root's alone; a directory of all users (/tmp) is one above it, and sticky.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from qwartet.errors import SettingError
from qwartet.files import atomic_write, cache_directory

STALE_S = 86_400.0  # an unfinished file that no lock tells about is removed after a day
_UNFINISHED = ".*.tmp"  # the names of atomic_write
_UNMAPPED_UID = 65534  # how a user namespace shows an owner that it does not know, root's directories among them


def packed_directory() -> Path:
    """Where caches of packed weights lie."""
    return cache_directory() / "packed"


def check_is_ours(path: Path) -> None:
    """SettingError where another user could have made or changed what lies at `path`, or could do so now."""
    hint = "set QWARTET_CACHE to a directory of yours"
    real, inner = path.resolve(), packed_directory().resolve()
    for place in (real, *real.parents):
        try:
            status = place.stat()
        except FileNotFoundError:  # not made yet
            continue
        is_above = place in inner.parents
        if status.st_uid not in (os.getuid(), 0) and not (is_above and status.st_uid == _UNMAPPED_UID):
            raise SettingError(f"{place} belongs to another user; {hint}")
        writers = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_above and writers == stat.S_IWGRP and is_own_group(status.st_gid):
            continue  # as a umask of 002 makes directories
        if writers and not (is_above and status.st_mode & stat.S_ISVTX):
            raise SettingError(f"other users can write {place}; chmod go-w it and what is in it, or {hint}")


def is_own_group(group: int) -> bool:
    """Whether a group is root's, or that of this user alone: called as the user is, and without other members."""
    try:
        user, entry = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return group == 0
    return group == 0 or (entry.gr_name == user and set(entry.gr_mem) <= {user})


@contextmanager
def locked_write(path: Path) -> Iterator[BinaryIO]:
    """As atomic_write, with the open file: locked until it has its name, so that `remove_leftovers` leaves it."""
    held = None
    try:
        with atomic_write(path) as unfinished:
            with _alone(path.parent):
                file = unfinished.open("xb")
                held = os.dup(file.fileno())
                _lock(held, fcntl.LOCK_EX)
            with file:
                yield file
    finally:
        if held is not None:
            os.close(held)


def remove_leftovers(directory: Path) -> None:
    """Removes the unfinished files of processes that were killed; those that a process writes are locked by it."""
    if any(directory.glob(_UNFINISHED)):
        with _alone(directory):
            for left in directory.glob(_UNFINISHED):
                with suppress(OSError), left.open("rb") as file:  # OSError: gone by now, or not ours
                    if not _is_written(file, left):
                        left.unlink()


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Nobody removes leftovers in between a file's making and its lock."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_written(file: BinaryIO, path: Path) -> bool:
    """Whether a process is at work on an unfinished file, or may be."""
    has_lock = ".safetensors." in path.name and _lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    return not has_lock and time.time() - path.stat().st_mtime < STALE_S


def _lock(descriptor: int, operation: int) -> bool:
    """Whether the lock could be had; disks without locks have none."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        return False
    return True
