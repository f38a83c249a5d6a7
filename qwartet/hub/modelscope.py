"""ModelScope: the files of a model, and the local cache.

Requests go to its REST API through huggingface_hub's HTTP client. Variables and cache are those of its own library:
MODELSCOPE_ENDPOINT (or MODELSCOPE_DOMAIN), MODELSCOPE_API_TOKEN, MODELSCOPE_CACHE.

    models/ORG--NAME/snapshots/REVISION/FILE      the library's layout; Qwartet's downloads have the commit as REVISION
    [hub/][models/]ORG/NAME/FILE                  layouts of older versions ("." in NAME is "___"), read but not written
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from qwartet import __version__
from qwartet.errors import DownloadError
from qwartet.hub.answers import json_answer
from qwartet.hub.download_errors import Wording, unknown_revision
from qwartet.hub.fetch import patiently
from qwartet.hub.listing import Listing, RemoteFile, checked_files, is_commit, is_safe_revision
from qwartet.hub.manifest import read_manifests
from qwartet.hub.repository import HubName, Repository, parse_repository
from qwartet.hub.snapshot import Place, Removal, Snapshot, size_of

DEFAULT_ENDPOINT = "https://modelscope.cn"
_OLD_LAYOUTS = ("", "hub", "models", "hub/models")
_NOT_OWNERS = {"hub", "models", "datasets", "studios", "endpoints", "._____temp", ".lock", "temp"}


class ModelScope:
    """The hub at MODELSCOPE_ENDPOINT."""

    name: HubName = "modelscope"
    default_revision = "master"

    def listing(self, repository: Repository, revision: str) -> Listing:
        query = urlencode({"Revision": revision, "Recursive": "true"})
        url = f"{_model_url(repository)}/files?{query}"
        data = patiently(lambda: _data(url, self.headers()), str(repository))
        raw = data.get("Files")
        if not isinstance(raw, list):  # its response, with status 200, for a revision that does not exist
            raise unknown_revision(repository, revision)
        commit = _commit(data, raw, revision)
        asked = commit if is_commit(commit) else revision

        def remote_files() -> Iterator[RemoteFile]:
            for entry in raw:
                if isinstance(entry, dict) and entry.get("Type") != "tree":
                    path = entry.get("Path", "")
                    url = self.file_url(repository, asked, path)
                    yield RemoteFile(path, entry.get("Size", -1), entry.get("Sha256") or None, None, url)

        files = checked_files(repository, remote_files())
        if not is_commit(commit) and not all(file.has_hash for file in files):
            raise DownloadError(
                "the hub lists neither a commit nor hashes, so files of different versions could be mixed; "
                "pass a full commit hash as --revision"
            )
        return Listing(repository, revision, commit, _endpoint(), files)

    def file_url(self, repository: Repository, revision: str, name: str) -> str:
        return f"{_model_url(repository)}?{urlencode({'Revision': revision, 'FilePath': name})}"

    def headers(self) -> Mapping[str, str]:
        headers = {"User-Agent": f"qwartet/{__version__}"}
        if token := os.environ.get("MODELSCOPE_API_TOKEN"):
            headers |= {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"}
        return headers

    def place(self, listing: Listing) -> Place:
        storage = _storage(listing.repository)
        return Place(storage / "snapshots" / listing.commit, _cache() / ".lock" / f"{storage.name}.qwartet.lock")

    def finish(self, listing: Listing) -> None:
        """Does nothing: the layout has no names for commits; the manifest records them."""

    def snapshot(self, repository: Repository, revision: str) -> Snapshot | None:
        found = [snapshot for snapshot in self.snapshots() if snapshot.repository == repository]
        by_commit = {snapshot.commit: snapshot for snapshot in found if snapshot.commit is not None}
        if revision in by_commit:
            return by_commit[revision]
        for manifest in read_manifests():
            if manifest.repository == repository and manifest.revision == revision and manifest.commit in by_commit:
                return by_commit[manifest.commit]
        return next((snapshot for snapshot in found if revision in snapshot.revisions), None)

    def snapshots(self) -> Iterator[Snapshot]:
        for storage in sorted(_cache().glob("models/*--*")):
            repository = parse_repository(storage.name.replace("--", "/"), self.name)
            if repository is None or not (storage / "snapshots").is_dir():
                continue
            for directory in sorted((storage / "snapshots").iterdir()):
                if directory.is_dir():
                    is_ours = is_commit(directory.name) or directory.name.startswith("listing-")
                    revisions = () if is_ours else (directory.name,)
                    yield Snapshot(repository, directory, directory.name if is_ours else None, revisions)
        yield from self._old_snapshots()

    def _old_snapshots(self) -> Iterator[Snapshot]:
        for layout in _OLD_LAYOUTS:
            for config in sorted((_cache() / layout).glob("*/*/config.json")):
                directory, owner = config.parent, config.parent.parent.name
                repository = parse_repository(f"{owner}/{directory.name.replace('___', '.')}", self.name)
                if repository is not None and owner not in _NOT_OWNERS and not directory.is_symlink():
                    yield Snapshot(repository, directory, None, (_old_revision(directory),))

    def removal(self, snapshot: Snapshot, unfinished_blobs: frozenset[str]) -> Removal:
        directory = snapshot.directory
        if not directory.resolve().is_relative_to(_cache().resolve()):
            raise DownloadError(f"{directory} is outside {_cache()}; remove it yourself")

        def execute() -> None:
            shutil.rmtree(directory)
            if directory.parent.name == "snapshots" and not any(directory.parent.iterdir()):
                shutil.rmtree(directory.parent.parent)

        return Removal(size_of(list(directory.rglob("*"))), execute)

    def wording(self) -> Wording:
        endpoint = _endpoint()
        is_by_domain = "MODELSCOPE_DOMAIN" in os.environ and not os.environ.get("MODELSCOPE_ENDPOINT")
        return Wording(
            endpoint=endpoint,
            is_default_endpoint=endpoint == DEFAULT_ENDPOINT,
            cache=_cache(),
            endpoint_variable="MODELSCOPE_DOMAIN" if is_by_domain else "MODELSCOPE_ENDPOINT",
            cache_variable="MODELSCOPE_CACHE",
            token_variable="MODELSCOPE_API_TOKEN",
            alternatives=("use --source hf (the name hf:OWNER/NAME)",),
        )


def _endpoint() -> str:
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or DEFAULT_ENDPOINT
    return (endpoint if "://" in endpoint else f"https://{endpoint}").rstrip("/")


def _model_url(repository: Repository) -> str:
    return f"{_endpoint()}/api/v1/models/{quote(repository.name)}/repo"


def _cache() -> Path:
    own = os.environ.get("MODELSCOPE_CACHE")
    return Path(own).expanduser() if own else Path.home() / ".cache" / "modelscope"


def _storage(repository: Repository) -> Path:
    return _cache() / "models" / repository.name.replace("/", "--")


def _old_revision(directory: Path) -> str:
    """What the older library recorded: "Revision:master,CreatedAt:..."."""
    try:
        text = (directory / ".mv").read_text(encoding="utf-8")[:200]
    except (OSError, ValueError):
        return "master"
    revision = text.partition(",")[0].removeprefix("Revision:").strip()
    return revision if is_safe_revision(revision) else "master"


def _data(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """The "Data" of a response of the REST API; the HTTP client's exceptions for a refusal."""
    hint = "check MODELSCOPE_ENDPOINT"
    answer = json_answer(url, headers, "the hub's answer", hint)
    data = answer.get("Data") if isinstance(answer, dict) else None
    if not isinstance(data, dict) or not answer.get("Success", True):
        raise DownloadError(f"the hub's answer is not in ModelScope's format; {hint}")
    return data


def _commit(data: dict[str, Any], files: list[Any], revision: str) -> str:
    """The commit of a listing.

    The API gives its first digits; the full hash is given with the files that it changed. Where none of those is left,
    a hash of the listing takes its place.
    """
    if is_commit(revision):
        return revision
    committer = data.get("LatestCommitter")
    short = committer.get("ShortId") if isinstance(committer, dict) else None
    if isinstance(short, str) and len(short) >= 7:
        for entry in files:
            commit = entry.get("Revision") if isinstance(entry, dict) else None
            if isinstance(commit, str) and is_commit(commit) and commit.startswith(short):
                return commit
    content = sorted(json.dumps(entry, sort_keys=True) for entry in files)
    return "listing-" + hashlib.sha256("\n".join(content).encode()).hexdigest()[:32]
