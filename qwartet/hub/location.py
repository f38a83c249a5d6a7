"""Where from_pretrained finds a model: a directory or a hub id, with the arguments that the original takes for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from qwartet.errors import SettingError

StrPath = str | os.PathLike[str]

# Downloads are always resumed, and code shipped with a checkpoint is never executed.
_WITHOUT_EFFECT = ("trust_remote_code", "resume_download", "code_revision", "mirror", "local_dir_use_symlinks")
# They would change how a model is downloaded; a directory needs no download.
_OF_DOWNLOADS: Mapping[str, str] = {
    "cache_dir": "set the environment variable HF_HUB_CACHE",
    "force_download": "run `qwartet pull NAME` first",
    "proxies": "set the environment variable HTTPS_PROXY",
    "token": "set the environment variable HF_TOKEN",
    "use_auth_token": "set the environment variable HF_TOKEN",
}
_DEFAULT_REVISIONS = ("main", "master")
LOCATION_ARGUMENTS = (*_WITHOUT_EFFECT, *_OF_DOWNLOADS, "revision", "local_files_only", "subfolder")


def locate(name_or_path: StrPath, arguments: MutableMapping[str, Any]) -> Path:
    """Directory of a model; removes the arguments that locate it from `arguments`.

    `local_files_only` contacts no hub. SettingError for an unsupported one that would matter, ModelNotFoundError.
    """
    from qwartet.hub.resolve import resolve

    name = os.fspath(name_or_path)
    is_directory = os.path.isdir(os.path.expanduser(name))
    given = {key: arguments.pop(key) for key in LOCATION_ARGUMENTS if key in arguments}
    for key, hint in _OF_DOWNLOADS.items():
        if not is_directory and given.get(key) not in (None, False) and (given[key] is not True or "token" not in key):
            raise SettingError(f"{key} is not supported for a download; {hint}", param=key)
    if given.get("subfolder") not in (None, ""):
        raise SettingError(f"subfolder is {given['subfolder']!r}; pass the directory itself", param="subfolder")
    revision = given.get("revision")
    if is_directory and revision in _DEFAULT_REVISIONS:
        revision = None
    return resolve(name, revision=revision, download=not given.get("local_files_only"))
