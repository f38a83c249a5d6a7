"""A model's name -> a local directory: the directory itself, or a hub id that is downloaded.

"Qwen/Qwen-7B-Chat" and "hf:Qwen/Qwen-7B-Chat" are models on Hugging Face, "modelscope:qwen/Qwen-7B-Chat" on ModelScope.
Complete local copies are used without contacting the hub: what was pulled is what runs, until the next pull.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from qwartet.errors import ModelNotFoundError, SettingError
from qwartet.hub.repository import PUBLISHED_NAMES, Repository, parse_repository


def looks_like_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id; the hub is not asked."""
    return parse_repository(name) is not None


def resolve(name: str, *, revision: str | None = None, download: bool = True) -> Path:
    """Directory of the checkpoint that `name` means: a directory, or a hub id at a revision (branch, tag or commit).

    With `download` false, only local copies count. ModelNotFoundError says why there is no such model; DownloadError,
    CheckpointError and SettingError why it could not be downloaded; SettingError for a revision of a directory.
    """
    path = Path(os.path.expanduser(name))
    if name and _is_directory(path):
        if revision is not None:
            raise SettingError(f"revision is {revision!r}, but {name} is a directory; a revision needs a hub id")
        return path
    if name and os.path.lexists(path):
        raise ModelNotFoundError(f"{name}: is not a directory; pass the directory of the checkpoint")
    repository = parse_repository(name)
    if repository is None:
        hint = "pass the directory of a checkpoint, or a hub id such as Qwen/Qwen-7B-Chat"
        shown = name if name and name.isprintable() else repr(name)
        raise ModelNotFoundError(f"{shown}: no such directory; {_near_directories(path) or hint}")
    return _stored_or_fetched(repository, revision, download)


def did_you_mean(repository: Repository) -> str | None:
    """A question that names directories or published models with similar names; None when there are none."""
    if near := _near_directories(Path(repository.name)):
        return near
    if repository.name in PUBLISHED_NAMES:
        return None
    name = repository.name if "/" in repository.name else f"Qwen/{repository.name}"
    near_names = difflib.get_close_matches(name, PUBLISHED_NAMES, n=1 if name in PUBLISHED_NAMES else 2, cutoff=0.85)
    return f"did you mean {' or '.join(near_names)}?" if near_names else None


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise ModelNotFoundError(f"{path}: {reason}; check the path and its permissions") from None


def _near_directories(path: Path) -> str | None:
    try:
        siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except (OSError, ValueError):  # ValueError: a NUL character
        return None
    near = difflib.get_close_matches(path.name, siblings, n=3)
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else None


def _stored_or_fetched(repository: Repository, revision: str | None, download: bool) -> Path:
    from qwartet.hub.hubs import HUBS
    from qwartet.hub.manifest import manifest_of
    from qwartet.hub.pull import pull_model
    from qwartet.hub.stored import state_of

    hub = HUBS[repository.hub]
    snapshot = hub.snapshot(repository, revision or hub.default_revision)
    state = "partial" if snapshot is None else state_of(snapshot.directory, manifest_of(snapshot.directory))
    if snapshot is not None and (state == "complete" or (state == "loadable" and not download)):
        return snapshot.directory
    near = did_you_mean(repository)
    if "/" not in repository.name:  # no Qwen model has such a name: it is more likely a typo, or a prompt
        hint = near or "pass the directory of a checkpoint, or a hub id such as Qwen/Qwen-7B-Chat"
        raise ModelNotFoundError(f"{repository}: no such directory, and not a hub id (OWNER/NAME); {hint}")
    if not download:
        hint = near or f"`qwartet pull {repository}` downloads it"
        place = hub.wording().cache
        reason = f"no such directory, and the cache ({place}) has no complete copy"
        raise ModelNotFoundError(f"{repository}: {reason}; {hint}")
    try:
        return pull_model(repository, revision, near=near).manifest.directory
    except ModelNotFoundError:
        if snapshot is not None and state == "loadable":
            return snapshot.directory  # the hub cannot say what else the model has
        raise
