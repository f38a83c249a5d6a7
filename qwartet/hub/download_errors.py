"""What a user is told when a model cannot be had from a hub: one line, what is wrong and what to do."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwartet.errors import DownloadError, ModelNotFoundError, QwartetError
from qwartet.hub.fetch import reason_of
from qwartet.hub.manifest import manifest_directory
from qwartet.hub.repository import Repository

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@dataclass(frozen=True)
class Wording:
    """A hub's address and cache, and the variables that change them."""

    endpoint: str
    cache: Path
    endpoint_variable: str
    cache_variable: str
    token_variable: str


def explain(
    repository: Repository, revision: str, error: Exception, wording: Wording, near: str | None = None
) -> QwartetError:
    """The error to raise for an exception of a download; `near` asks whether another name was meant."""
    from huggingface_hub import constants, errors

    if isinstance(error, QwartetError):
        return DownloadError(f"{repository}: {error}") if isinstance(error, DownloadError) else error
    hub, response = wording.endpoint, getattr(error, "response", None)
    status: int | None = None if response is None else response.status_code
    absent = "" if ":" in str(repository) else "no such directory, and "
    if isinstance(error, errors.GatedRepoError):
        hint = f"do so on the model's page, then set {wording.token_variable}"
        return ModelNotFoundError(f"{repository}: the hub wants its terms accepted first; {hint}")
    if isinstance(error, errors.RevisionNotFoundError):
        return unknown_revision(repository, revision)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        hint = near or f"check the spelling (a private model also needs {wording.token_variable})"
        return ModelNotFoundError(f"{repository}: {absent}no such model on {hub}; {hint}")
    if status in (401, 403):
        reason = f"{hub} does not show it to everybody ({status})"
        return ModelNotFoundError(f"{repository}: {reason}; set {wording.token_variable}, or check the spelling")
    if constants.HF_HUB_OFFLINE:
        reason = f"{absent}offline it is not, or not completely, in the cache ({wording.cache})"
        return ModelNotFoundError(f"{repository}: {reason}; {near or 'unset HF_HUB_OFFLINE, or give a directory'}")
    if isinstance(error, OSError) and error.errno in (*_NO_SPACE, *_NOT_WRITABLE):
        return _of_the_disk(repository, error, wording)
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    hint = near or f"check the connection and {wording.endpoint_variable}, then run it again: what came is kept"
    return ModelNotFoundError(f"{repository}: {absent}{hub} did not deliver it ({reason_of(cause)}); {hint}")


def unknown_revision(repository: Repository, revision: str) -> ModelNotFoundError:
    """The error for a branch, tag or commit that a hub does not know."""
    hint = "give a branch, a tag or a full commit hash"
    return ModelNotFoundError(f"{repository}: the hub has no revision {revision!r} of it; {hint}")


def _of_the_disk(repository: Repository, error: OSError, wording: Wording) -> DownloadError:
    own = manifest_directory().parent
    file: Any = error.filename
    is_own = isinstance(file, str) and (Path(file).is_relative_to(own) or own.is_relative_to(file))
    place, variable = (own, "QWARTET_CACHE") if is_own else (wording.cache, wording.cache_variable)
    if error.errno in _NO_SPACE:
        return DownloadError(f"{repository}: no space left in {place}; free some, or set {variable} to a larger disk")
    reason = f"{place} cannot be written ({os.strerror(error.errno or 0)})"
    return DownloadError(f"{repository}: {reason}; set {variable} to a directory that can")
