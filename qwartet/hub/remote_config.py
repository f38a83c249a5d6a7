"""The config.json of a model on a hub, and no other file: enough to plan its memory before a download."""

from __future__ import annotations

from typing import Any

from qwartet.errors import CheckpointError, ModelNotFoundError
from qwartet.hub.answers import json_answer
from qwartet.hub.download_errors import explain
from qwartet.hub.fetch import patiently
from qwartet.hub.hubs import HUBS
from qwartet.hub.repository import Repository

_HINT = "choose another model or revision"


def fetch_config(repository: Repository, revision: str | None = None, near: str | None = None) -> dict[str, Any]:
    """The content of the config.json at a branch, tag or commit; nothing is stored.

    ModelNotFoundError, DownloadError and CheckpointError (not a JSON object) say what to do; `near` asks whether
    another name was meant.
    """
    from huggingface_hub import errors

    hub = HUBS[repository.hub]
    revision = revision or hub.default_revision
    url = hub.file_url(repository, revision, "config.json")
    try:
        config = patiently(lambda: json_answer(url, hub.headers(), "config.json", _HINT), str(repository))
    except errors.EntryNotFoundError as error:
        raise ModelNotFoundError(f"{repository}: no config.json in the model on the hub; {_HINT}") from error
    except Exception as error:
        raise explain(repository, revision, error, hub.wording(), near) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{repository}/config.json", "is not a JSON object", hint=_HINT)
    return config
