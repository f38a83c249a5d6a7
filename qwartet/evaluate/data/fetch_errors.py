"""The one line that a user sees when a benchmark's data cannot be fetched: what is wrong and what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from qwartet.errors import DownloadError, QwartetError
from qwartet.evaluate.data.hub_copies import HubCopy
from qwartet.evaluate.data.hub_tables import CHECK_MIRROR
from qwartet.hub.download_errors import happened
from qwartet.hub.fetch import GivenUp, is_of_the_connection
from qwartet.hub.hugging_face import HuggingFace

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def explained(copy: HubCopy, data: Path, error: Exception) -> QwartetError:
    """The error to raise for an exception of a download."""
    from huggingface_hub import errors

    dataset, hub = copy.dataset, HuggingFace().wording()
    if isinstance(error, QwartetError):
        text = str(error)
        return DownloadError(text if text.startswith(f"{dataset}: ") else f"{dataset}: {text}")
    causes = [error.cause if isinstance(error, GivenUp) else error]
    while (cause := causes[-1].__cause__) is not None and isinstance(cause, Exception):
        causes.append(cause)
    told: Any = next((one for one in causes if getattr(one, "response", None) is not None), None)
    status: int | None = None if told is None else told.response.status_code
    if isinstance(told, errors.GatedRepoError):
        page = f"{hub.endpoint}/datasets/{dataset}"
        return DownloadError(f"{dataset}: gated dataset; accept its terms at {page}, then set {hub.token_variable}")
    if isinstance(told, errors.RevisionNotFoundError):
        return DownloadError(f"{dataset}: no commit {copy.revision} on {hub.endpoint}; {CHECK_MIRROR}")
    if isinstance(told, errors.RepositoryNotFoundError) or status == 404:
        return DownloadError(f"{dataset}: no such dataset on {hub.endpoint}; {CHECK_MIRROR}")
    if status in (401, 403):
        return DownloadError(f"{dataset}: {hub.endpoint} denies access ({status}); check {hub.token_variable}")
    failed = next((one for one in causes if is_of_the_connection(one)), told)
    if failed is not None:
        attempts = f", {error.num_attempts} attempts" if isinstance(error, GivenUp) else ""
        way = hub.alternatives[0] if hub.is_default_endpoint else f"fix or unset {hub.endpoint_variable}"
        hint = f"try again later, {way}, or put the published files into --data by hand"
        return DownloadError(f"{dataset}: {happened(failed, hub, attempts)}; {hint}")
    disk: Any = next((one for one in causes if isinstance(one, OSError) and one.errno is not None), None)
    if disk is not None and disk.errno in _NO_SPACE:
        return DownloadError(f"{dataset}: no space left for it; free some in {data} and in {hub.cache}")
    if disk is not None:
        place = f"{disk.filename or data} cannot be written ({disk.strerror})"
        return DownloadError(f"{dataset}: {place}; check its permissions, or set --data or HF_HOME")
    reason = " ".join(f"{type(causes[-1]).__name__}: {causes[-1]}".split())[:200]
    return DownloadError(f"{dataset}: its files cannot be read ({reason}); {CHECK_MIRROR}")
