"""Published archives of benchmarks (.zip, .tar), unpacked into a folder that appears complete or not at all.

Every member is checked before the first one is unpacked. A published archive has folders and plain files, so one with
anything else is refused as a whole: a name that leads out of the folder, a link, a device, a sparse or encrypted file,
a name twice, more members or bytes than any published set has. The libraries only list and read; the files are created
here, under names made of the wanted folders and one plain part.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qwartet.errors import DataError
from qwartet.files import atomic_write, kind_of, leads_out

MAX_MEMBERS = 2_000  # MMLU's archive has fewer than 300
MAX_BYTES = 2**30  # of an archive and, apart from that, of all that is in it; MMLU's has less than 200 MB
MAX_LISTING_BYTES = 2**20  # that the libraries may read to list the members
MAX_HEADER_BYTES = 2**11  # of a .tar at a time: tarfile takes time with the square of a header's length
SUFFIX = ".csv"

_PIECE_BYTES = 2**20
_DEPTH = 3  # parts of a wanted name: the archive's own folder if it has one, a split, a file
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError,
    NotImplementedError, ValueError, OverflowError, RuntimeError,
)  # fmt: skip
_BY_ANOTHER_PROCESS = (errno.EEXIST, errno.ENOTEMPTY)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class PublishedArchive:
    """How a benchmark is published: the archive's name, and the folders in it whose CSV files are unpacked."""

    name: str
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Unpacked:
    """What was unpacked, and where its folders are now."""

    archive: Path
    directory: Path
    num_files: int


@dataclass(frozen=True)
class Member:
    """A member of an archive, as the archive describes it."""

    name: str
    kind: str  # "file", "directory", or what makes it unwanted
    num_bytes: int  # unpacked
    open: Callable[[], IO[bytes] | None]


class UnsafeArchiveError(Exception):
    """What is wrong with an archive."""


def unpack_missing(data: Path, folder: str, archive: PublishedArchive) -> Unpacked | None:
    """Unpacks a benchmark's archive next to it, in `data` or its `folder` there; None without one, or if that was done.

    DataError for an archive that is not safe, not complete, or not the published one.
    """
    own = data / folder
    path = next((place / archive.name for place in (own, data) if (place / archive.name).is_file()), None)
    if path is None:
        return None
    directory = own / path.stem if own.is_dir() else own
    if directory.exists():
        return None
    return Unpacked(path, directory, unpack(path, directory, archive.folders))


def unpack(path: Path, directory: Path, folders: Sequence[str]) -> int:
    """Creates `directory` with these folders of an archive, their CSV files in them; returns the number of files.

    DataError, and nothing left, for an archive that is not safe, not complete, or without such files.
    """
    hint = "download the published archive again"
    try:
        if (kind := kind_of(path)) != "a file":
            raise DataError(path, f"{kind or 'nothing'}, not an archive", hint=hint)
        with _members(path) as members, atomic_write(directory) as temporary:
            wanted = checked(members, folders)
            write_members(wanted, temporary)
            return len(wanted)
    except UnsafeArchiveError as error:
        raise DataError(path, f"not unpacked ({error})", hint=hint) from None
    except _BROKEN as error:
        raise DataError(path, f"truncated or damaged ({str(error) or type(error).__name__})", hint=hint) from None
    except OSError as error:
        if error.errno in _BY_ANOTHER_PROCESS and directory.is_dir():
            return sum(len(list(directory.glob(f"{folder}/*{SUFFIX}"))) for folder in folders)
        what_to_do = "free some space" if error.errno in _NO_SPACE else "check the permissions, or unpack it by hand"
        raise DataError(path, f"cannot be unpacked ({error.strerror or error})", hint=what_to_do) from None


def checked(members: Iterable[Member], folders: Sequence[str]) -> dict[str, Member]:
    """The members to unpack, by their place: FOLDER/NAME.csv. UnsafeArchiveError if any member is not harmless."""
    wanted: dict[str, Member] = {}
    names: set[str] = set()
    num_bytes = 0
    for member in members:
        name = member.name.removeprefix("./")
        if member.kind == "directory":
            if name not in ("", ".") and leads_out(name.removesuffix("/")):
                raise UnsafeArchiveError(f"the member {member.name!r:.80} leads out of its folder")
            continue
        if leads_out(name):
            raise UnsafeArchiveError(f"the member {member.name!r:.80} leads out of its folder")
        if member.kind != "file":
            raise UnsafeArchiveError(f"the member {member.name!r:.80} is {member.kind}")
        num_bytes += member.num_bytes
        if member.num_bytes < 0 or num_bytes > MAX_BYTES:
            raise UnsafeArchiveError(f"it unpacks to more than {MAX_BYTES:,} bytes, unlike any published one")
        place = _place(name, folders)
        for one in {name.casefold(), *([place.casefold()] if place else [])}:
            if one in names:
                raise UnsafeArchiveError(f"two members are named {member.name!r:.80}")
            names.add(one)
        if place:
            wanted[place] = member
    if not wanted:
        raise UnsafeArchiveError(f"it has no {' or '.join(f'{folder}/*{SUFFIX}' for folder in folders)}")
    return wanted


def _place(name: str, folders: Sequence[str]) -> str:
    """FOLDER/NAME.csv for a member that is wanted; empty for another."""
    parts = name.split("/")
    if not 2 <= len(parts) <= _DEPTH or parts[-2] not in folders:
        return ""
    is_wanted = parts[-1].endswith(SUFFIX) and not parts[-1].startswith(".")
    return "/".join(parts[-2:]) if is_wanted else ""


def write_members(wanted: dict[str, Member], directory: Path) -> None:
    """Writes checked members into a new directory; UnsafeArchiveError once one is longer or shorter than declared."""
    for place, member in wanted.items():
        target = directory / place
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = member.open()
        if stream is None:
            raise UnsafeArchiveError(f"the member {member.name!r:.80} has no content")
        num_left = member.num_bytes
        with stream, target.open("xb") as file:
            while piece := stream.read(min(_PIECE_BYTES, num_left + 1)):
                num_left -= len(piece)
                if num_left < 0:
                    raise UnsafeArchiveError(f"the member {member.name!r:.80} is longer than it declares")
                file.write(piece)
        if num_left:
            raise UnsafeArchiveError(f"the member {member.name!r:.80} is shorter than it declares")


class _Archive(io.FileIO):
    """An archive's file that limits what a library reads from it while it lists the members."""

    def __init__(self, path: Path, max_read: int) -> None:
        super().__init__(path)
        self._max_read, self._num_left = max_read, MAX_LISTING_BYTES
        self.is_listed = False

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.is_listed:
            if size is None or size < 0:  # zipfile: all to the end of the file
                size = os.fstat(self.fileno()).st_size - self.tell()
            self._num_left -= size
            if size > self._max_read or self._num_left < 0:
                raise UnsafeArchiveError("the list of its members is too long")
        return super().read(size) or b""


@contextmanager
def _members(path: Path) -> Iterator[list[Member]]:
    """The members of an archive, which can be opened during the block."""
    if path.stat().st_size > MAX_BYTES:
        raise UnsafeArchiveError(f"it is larger than {MAX_BYTES:,} bytes, unlike any published one")
    is_zip = path.suffix == ".zip"
    with _Archive(path, MAX_LISTING_BYTES if is_zip else MAX_HEADER_BYTES) as file:
        if is_zip:
            with zipfile.ZipFile(file) as zipped:
                members = _counted(_zip_member(zipped, one) for one in zipped.infolist())
                file.is_listed = True
                yield members
        else:
            with tarfile.open(fileobj=file, mode="r:") as taped:  # not "r": a compressed one could unpack without end
                members = _counted(_tar_member(taped, one) for one in taped)
                file.is_listed = True
                file.seek(taped.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise UnsafeArchiveError("it does not end as an archive does")
                yield members


def _counted(members: Iterable[Member]) -> list[Member]:
    found: list[Member] = []
    for member in members:
        if len(found) == MAX_MEMBERS:
            raise UnsafeArchiveError(f"it has more than {MAX_MEMBERS:,} members")
        found.append(member)
    return found


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    mode = stat.S_IFMT(info.external_attr >> 16)
    kind = "directory" if info.is_dir() else "file"
    if info.flag_bits & 0x2041:  # encrypted, strongly encrypted, or the list of members is
        kind = "an encrypted file"
    elif mode not in (0, stat.S_IFDIR if kind == "directory" else stat.S_IFREG):
        kind = "a link" if mode == stat.S_IFLNK else "a special file"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        kind = "a file with an unusual compression"  # others unpack a piece of any length at once
    return Member(info.orig_filename, kind, info.file_size, lambda: archive.open(info))


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if info.issym() or info.islnk():
        kind = "a link"
    elif info.isdir():
        kind = "directory"
    elif info.isreg() and not info.issparse():
        kind = "file"
    else:
        kind = "a special file"
    return Member(info.name, kind, info.size, lambda: archive.extractfile(info))
