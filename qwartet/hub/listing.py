"""The files that a hub lists for a model or a dataset, and which of them are downloaded.

Of a model data only: *.json, *.tiktoken, *.safetensors, chat_template.jinja, and the licence. Code and pickled weights
stay on the hub. The listing is not trusted: names, sizes and hashes are checked here before any of them becomes part of
a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwartet.errors import DownloadError
from qwartet.files import leads_out
from qwartet.hub.repository import Repository

MAX_FILES = 10_000
MAX_FILE_BYTES = 2**46

MAX_NAME_BYTES = 200  # a file system allows 255, with the suffix of an unfinished file

OF_A_MODEL = re.compile(r"[^/.][^/]*\.(json|tiktoken|safetensors)|chat_template\.jinja|(LICENSE|NOTICE)(\.(txt|md))?")
_REVISION = re.compile(r"[\w][\w./-]{0,100}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """One file, identified by its `sha256` or, where the hub does not list that, its `git_sha1`, or by neither."""

    name: str
    size: int  # bytes
    sha256: str | None
    git_sha1: str | None
    url: str

    @property
    def blob(self) -> str:
        """The hash that identifies the content on the hub; empty where it lists none."""
        return self.sha256 or self.git_sha1 or ""

    @property
    def has_hash(self) -> bool:
        """Whether more than the size of the content can be verified."""
        return bool(self.blob)


@dataclass(frozen=True)
class Listing:
    """The files of a model or a dataset at a commit; `revision` is what the caller asked for."""

    repository: Repository
    revision: str
    commit: str
    endpoint: str
    files: tuple[RemoteFile, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)


def checked_files(
    repository: Repository, files: Iterable[RemoteFile], wanted_names: re.Pattern[str] = OF_A_MODEL
) -> tuple[RemoteFile, ...]:
    """The files of a listing to download, smallest first; DownloadError for a listing that cannot be honest."""
    wanted: dict[str, RemoteFile] = {}
    for number, file in enumerate(files):
        if number >= MAX_FILES:
            raise _dishonest(repository, f"more than {MAX_FILES} files")
        if leads_out(file.name):
            raise _dishonest(repository, f"a file named {_shown(file.name)}")
        if not wanted_names.fullmatch(file.name):
            continue
        if len(file.name.encode()) > MAX_NAME_BYTES:
            raise _dishonest(repository, f"a file named {_shown(file.name)}, longer than {MAX_NAME_BYTES} bytes")
        if file.name in wanted:
            raise _dishonest(repository, f"{file.name} twice")
        _check_numbers(repository, file)
        wanted[file.name] = file
    return tuple(sorted(wanted.values(), key=lambda file: (file.size, file.name)))


def check_commit(repository: Repository, commit: object) -> str:
    """A commit hash that is safe as the name of a directory; DownloadError for anything else."""
    if not isinstance(commit, str) or not _SHA1.fullmatch(commit):
        raise _dishonest(repository, f"the commit {_shown(commit)}")
    return commit


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit hash."""
    return _SHA1.fullmatch(revision) is not None


def is_safe_revision(revision: str) -> bool:
    """Whether a branch or tag is safe as part of a path."""
    return _REVISION.fullmatch(revision) is not None and ".." not in revision and "//" not in revision


def named(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _check_numbers(repository: Repository, file: RemoteFile) -> None:
    if isinstance(file.size, bool) or not isinstance(file.size, int) or not 0 <= file.size <= MAX_FILE_BYTES:
        raise _dishonest(repository, f"{file.name} with a size of {_shown(file.size)}")
    for value, form in ((file.sha256, _SHA256), (file.git_sha1, _SHA1)):
        if value is not None and not (isinstance(value, str) and form.fullmatch(value)):
            raise _dishonest(repository, f"{file.name} with the hash {_shown(value)}")


def _dishonest(repository: Repository, what: str) -> DownloadError:
    return DownloadError(f"{repository}: the hub lists {what}; do not trust this repository, or this hub")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
