"""The one line that a user sees when a model cannot be downloaded: what is wrong and what to do."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from qwartet.errors import DownloadError, ModelNotFoundError, QwartetError
from qwartet.hub.fetch import GivenUp, is_of_the_connection, reason_of
from qwartet.hub.manifest import manifest_directory
from qwartet.hub.repository import Repository

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@dataclass(frozen=True)
class Wording:
    """A hub's address and cache, the variables that change them, and the other ways to get a model."""

    endpoint: str
    is_default_endpoint: bool
    cache: Path
    endpoint_variable: str
    cache_variable: str
    token_variable: str
    alternatives: tuple[str, ...]  # to this hub; the first one sets the endpoint where there are mirrors


def explain(
    repository: Repository,
    revision: str,
    error: Exception,
    wording: Wording,
    near: str | None = None,
    *,
    has_partial: bool = False,
) -> QwartetError:
    """The error to raise for an exception of a download; `near` asks whether another name was meant, `has_partial` says
    that a part of the model is on this machine.
    """
    from huggingface_hub import constants, errors

    if isinstance(error, QwartetError):
        return DownloadError(f"{repository}: {error}") if isinstance(error, DownloadError) else error
    hub, response = wording.endpoint, getattr(error, "response", None)
    status: int | None = None if response is None else response.status_code
    absent = "" if ":" in str(repository) else "no such directory, and "
    if isinstance(error, errors.GatedRepoError):
        hint = f"accept its terms on the model's page, then set {wording.token_variable}"
        return ModelNotFoundError(f"{repository}: gated model; {hint}")
    if isinstance(error, errors.RevisionNotFoundError):
        return unknown_revision(repository, revision)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        hint = near or f"check the spelling (a private model also needs {wording.token_variable})"
        return ModelNotFoundError(f"{repository}: {absent}no such model on {hub}; {hint}")
    if status in (401, 403):
        hint = f"set {wording.token_variable}, or check the spelling"
        return ModelNotFoundError(f"{repository}: {hub} denies access ({status}); {hint}")
    if constants.HF_HUB_OFFLINE:
        reason = f"HF_HUB_OFFLINE is set, and the cache ({wording.cache}) has no complete copy"
        hint = near or "unset HF_HUB_OFFLINE, or pass an existing directory"
        return ModelNotFoundError(f"{repository}: {reason}; {hint}")
    if isinstance(error, OSError) and error.errno in (*_NO_SPACE, *_NOT_WRITABLE):
        return _of_the_disk(repository, error, wording)
    hint = _other_ways(wording, near, has_partial)
    if isinstance(error, GivenUp):
        of = "" if error.what == str(repository) else f"{error.what}: "
        what = happened(error.cause, wording, f", {error.num_attempts} attempts")
        return DownloadError(f"{repository}: {of}{what}; {hint}")
    return ModelNotFoundError(f"{repository}: {absent}{happened(error, wording)}; {hint}")


def unknown_revision(repository: Repository, revision: str) -> ModelNotFoundError:
    """The error for a branch, tag or commit that a hub does not know."""
    hint = "pass a branch, a tag or a full commit hash"
    return ModelNotFoundError(f"{repository}: no revision {revision!r} on the hub; {hint}")


def happened(cause: Exception, wording: Wording, attempts: str = "") -> str:
    """What went wrong with which host, and which variable named that host."""
    # Without a scheme, the address that was asked has no host.
    url = _url_of(cause) or wording.endpoint if "://" in wording.endpoint else wording.endpoint
    host = _host(url)
    if host == _host(wording.endpoint) and not wording.is_default_endpoint:
        host += f" (set by {wording.endpoint_variable})"
    if is_of_the_connection(cause):
        proxy = _proxy_for(url)
        through = f" through the proxy {proxy}" if proxy else ""
        return f"could not reach {host}{through} ({reason_of(cause)}{attempts})"
    return f"download from {host} failed ({reason_of(cause)}{attempts})"


def _other_ways(wording: Wording, near: str | None, has_partial: bool) -> str:
    """The hint for a hub that cannot be used at present."""
    ways = list(wording.alternatives)
    if not wording.is_default_endpoint:
        ways[:-1] = [f"fix or unset {wording.endpoint_variable}"]
    again = "partial downloads are kept: run the command again" if has_partial else "try again later"
    first = f"{near} Otherwise {again}" if near else again
    return f"{first}, {', '.join(ways[:-1])}, or {ways[-1]}" if ways[1:] else f"{first}, or {ways[0]}"


def _url_of(cause: Exception) -> str | None:
    """The address that was asked, which a redirect may have named; None where the exception does not say."""
    response = getattr(cause, "response", None)
    asked: Any = cause if response is None else response
    try:
        return str(asked.request.url)
    except (AttributeError, RuntimeError):  # RuntimeError: httpx, of an exception without a request
        return None


def _host(url: str) -> str:
    """The host of a URL, and its port where it has one: no user name, no password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return url
    return url if host is None else host if port is None else f"{host}:{port}"


def _proxy_for(url: str) -> str | None:
    """The host of the proxy that the environment has for a URL."""
    try:
        parts, proxies = urlsplit(url), getproxies()
    except ValueError:
        return None
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return None if not proxy or proxy_bypass(parts.netloc) else _host(proxy)


def _of_the_disk(repository: Repository, error: OSError, wording: Wording) -> DownloadError:
    own = manifest_directory().parent
    file: Any = error.filename
    is_own = isinstance(file, str) and (Path(file).is_relative_to(own) or own.is_relative_to(file))
    place, variable = (own, "QWARTET_CACHE") if is_own else (wording.cache, wording.cache_variable)
    if error.errno in _NO_SPACE:
        return DownloadError(f"{repository}: no space left in {place}; free some, or set {variable} to a larger disk")
    reason = f"{place} cannot be written ({os.strerror(error.errno or 0)})"
    return DownloadError(f"{repository}: {reason}; set {variable} to a writable directory")
