"""A model's name -> a directory on this machine: itself, or a hub id that is downloaded.

What is fetched is data only: *.json, *.tiktoken and *.safetensors. Code and pickled weights stay on the hub.
huggingface_hub does the work, so HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN and its progress bars are as its
documentation says. A connection that is cut is resumed where it broke; a run that was stopped continues with the files
that are not there yet. A file gets its name in the cache only when it is complete.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from pathlib import Path

from qwartet.errors import ModelNotFoundError, SettingError

DOWNLOADED_FILES = ("*.json", "*.tiktoken", "*.safetensors")

# "org/name" or "name": what the hub accepts, and no more. "./x", "/x", "~/x", "x/" and "a/b/c" are paths.
_HUB_ID = re.compile(r"(?=.{1,96}$)(?!.*(--|\.\.|\.git$))(\w[\w.-]*/)?\w([\w.-]*\w)?", re.ASCII)


def looks_like_hub_id(name: str) -> bool:
    """Whether a name could be a model on the hub; says nothing about whether there is one."""
    return _HUB_ID.fullmatch(name) is not None


def resolve(name: str, *, revision: str | None = None, download: bool = True) -> Path:
    """Directory of the checkpoint that `name` means: a directory, or a hub id at a revision (branch, tag or commit).

    With `download` false, only what is in the cache counts. ModelNotFoundError says why there is no such model, or why
    it could not be fetched; SettingError for the revision of a directory.
    """
    path = Path(os.path.expanduser(name))
    if name and _is_directory(path):
        if revision is not None:
            raise SettingError(f"revision is {revision!r}, but {name} is a directory; a revision needs a hub id")
        return path
    if name and os.path.lexists(path):
        raise ModelNotFoundError(f"{name}: is not a directory; give the directory of the checkpoint")
    if not looks_like_hub_id(name):
        hint = "give the directory of a checkpoint, or a hub id such as Qwen/Qwen-7B-Chat"
        shown = name if name and name.isprintable() else repr(name)
        raise ModelNotFoundError(f"{shown}: no such directory; {_did_you_mean(path) or hint}")
    return _download(name, revision, local_files_only=not download)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise ModelNotFoundError(f"{path}: {reason}; check the path and its permissions") from None


def _did_you_mean(path: Path) -> str | None:
    """Question that names the directories beside `path` with similar names; None when there are none."""
    try:
        siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except (OSError, ValueError):  # ValueError: a NUL character
        return None
    near = difflib.get_close_matches(path.name, siblings, n=3)
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else None


def _download(name: str, revision: str | None, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(
            name, revision=revision, allow_patterns=list(DOWNLOADED_FILES), local_files_only=local_files_only
        )
    # Between its own exceptions and those of an HTTP client that it has changed before, no shorter list is complete.
    except Exception as error:
        raise ModelNotFoundError(_explain(name, revision, error, local_files_only)) from error
    return _checked_snapshot(name, Path(directory))


def _checked_snapshot(name: str, directory: Path) -> Path:
    files = {path.suffix for path in directory.iterdir()}
    if ".safetensors" not in files:
        reason = "has no .safetensors files, and Qwartet loads no others (pickled weights can run code)"
        raise ModelNotFoundError(f"{name}: the model on the hub {reason}; choose another model or revision")
    return directory


def _explain(name: str, revision: str | None, error: Exception, local_files_only: bool) -> str:
    """One line: what went wrong with a download, and what to do."""
    from huggingface_hub import constants, errors

    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    near = _did_you_mean(Path(name))
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, errors.GatedRepoError):
        return f"{name}: the hub wants its terms accepted first; do so on the model's page, then set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = near or "check the spelling (a private model also needs HF_TOKEN)"
        return f"{name}: no such directory, and no such model on {hub}; {hint}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name}: the hub has no revision {revision!r} of it; give a branch, a tag or a full commit hash"
    if local_files_only:
        hint = near or f"`qwartet chat {name}` downloads it"
        return f"{name}: no such directory, and not, or not completely, in the cache ({cache}); {hint}"
    if constants.HF_HUB_OFFLINE:
        hint = near or "unset HF_HUB_OFFLINE, or give a directory"
        return f"{name}: no such directory, and offline it is not, or not completely, in the cache ({cache}); {hint}"
    if code in (errno.ENOSPC, errno.EDQUOT):
        return f"{name}: no space left in {cache}; free some, or set HF_HOME to a larger disk"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return f"{name}: {cache} cannot be written ({os.strerror(code)}); set HF_HOME to a directory that can"
    cause = error.__cause__ or error
    reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
    hint = near or "check the connection and HF_ENDPOINT, then run it again: complete files are kept"
    return f"{name}: no such directory, and {hub} did not deliver it ({reason}); {hint}"
