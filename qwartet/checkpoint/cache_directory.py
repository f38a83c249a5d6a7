"""The directory of the weight cache: whether its files can be trusted, and cleaning up after killed processes.

Anyone who can write or replace a cache file controls what the model says. So the file, its directory and all parent
directories must be writable by this user or root alone; a shared parent such as /tmp is accepted if it is sticky.
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

STALE_S = 86_400.0  # an unfinished file without a lock is removed after a day
_UNFINISHED = ".*.tmp"  # names that atomic_write gives
_UNMAPPED_UID = 65534  # how a user namespace shows owners that it does not map, including root


def packed_directory() -> Path:
    """The directory of the weight cache."""
    return cache_directory() / "packed"


def check_is_ours(path: Path) -> None:
    """SettingError if another user could have created or changed `path`, or still can."""
    hint = "set QWARTET_CACHE to a directory that you own"
    real, inner = path.resolve(), packed_directory().resolve()
    for place in (real, *real.parents):
        try:
            status = place.stat()
        except FileNotFoundError:  # not created yet
            continue
        is_above = place in inner.parents
        if status.st_uid not in (os.getuid(), 0) and not (is_above and status.st_uid == _UNMAPPED_UID):
            raise SettingError(f"{place} belongs to another user; {hint}")
        writers = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_above and writers == stat.S_IWGRP and is_own_group(status.st_gid):
            continue  # as created under a umask of 002
        if writers and not (is_above and status.st_mode & stat.S_ISVTX):
            raise SettingError(f"other users can write to {place}; run chmod -R go-w on it, or {hint}")


def is_own_group(group: int) -> bool:
    """Whether a group is root's, or this user's private group: named like the user, without other members."""
    try:
        user, entry = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return group == 0
    return group == 0 or (entry.gr_name == user and set(entry.gr_mem) <= {user})


@contextmanager
def locked_write(path: Path) -> Iterator[BinaryIO]:
    """Like atomic_write, but yields the open file, locked until it has its name so that `remove_leftovers` skips it."""
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
    """Removes the unfinished files of killed processes; a file that is being written is locked by its writer."""
    if any(directory.glob(_UNFINISHED)):
        with _alone(directory):
            for left in directory.glob(_UNFINISHED):
                with suppress(OSError), left.open("rb") as file:  # OSError: gone by now, or not ours
                    if not _is_written(file, left):
                        left.unlink()


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Locks the directory, so that no leftovers are removed between creating a file and locking it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_written(file: BinaryIO, path: Path) -> bool:
    """Whether a process is writing an unfinished file, or may be."""
    has_lock = ".safetensors." in path.name and _lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    return not has_lock and time.time() - path.stat().st_mtime < STALE_S


def _lock(descriptor: int, operation: int) -> bool:
    """Whether the lock was acquired; False on file systems without locks."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        return False
    return True
