"""Hugging Face and its mirrors: the files of a model or a dataset, and the local cache.

Requests go through huggingface_hub, so HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN work as its
documentation says, and the cache is shared with other tools:

    models--ORG--NAME/blobs/HASH              contents, named by their SHA-256 or the SHA-1 of a git blob
    models--ORG--NAME/snapshots/COMMIT/FILE   links to them
    models--ORG--NAME/refs/REVISION           the commit of a branch or tag
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from qwartet import __version__
from qwartet.errors import DownloadError
from qwartet.files import atomic_write
from qwartet.hub.answers import json_answer
from qwartet.hub.download_errors import Wording
from qwartet.hub.fetch import patiently
from qwartet.hub.listing import (
    OF_A_MODEL,
    Listing,
    RemoteFile,
    check_commit,
    checked_files,
    is_commit,
    is_safe_revision,
)
from qwartet.hub.repository import HubName, Repository, parse_repository
from qwartet.hub.snapshot import Place, Removal, Snapshot, size_of

DEFAULT_ENDPOINT = "https://huggingface.co"
_MIRROR = "https://hf-mirror.com"


class HuggingFace:
    """The hub at HF_ENDPOINT."""

    name: HubName = "hf"
    default_revision = "main"

    def listing(self, repository: Repository, revision: str) -> Listing:
        """Asks the hub for the files of a model; any exception means that the model cannot be downloaded."""
        return self._listing("model", repository, revision, OF_A_MODEL)

    def dataset_listing(self, repository: Repository, revision: str, wanted: re.Pattern[str]) -> Listing:
        """The same of a dataset: the files whose names `wanted` matches."""
        return self._listing("dataset", repository, revision, wanted)

    def _listing(self, kind: str, repository: Repository, revision: str, wanted: re.Pattern[str]) -> Listing:
        from huggingface_hub import constants

        url = f"{constants.ENDPOINT}/api/{kind}s/{repository.name}/revision/{quote(revision, safe='')}?blobs=true"
        hint = "check HF_ENDPOINT"
        answer = patiently(lambda: json_answer(url, self.headers(), "the hub's answer", hint), str(repository))
        siblings = answer.get("siblings") if isinstance(answer, dict) else None
        if not isinstance(siblings, list):
            raise DownloadError(f"the hub's answer is not in Hugging Face's format; {hint}")
        commit = check_commit(repository, answer.get("sha"))
        files = checked_files(repository, _remote_files(kind, repository.name, commit, siblings), wanted)
        return Listing(repository, revision, commit, constants.ENDPOINT, files)

    def file_url(self, repository: Repository, revision: str, name: str) -> str:
        """Where one file of a model is downloaded from."""
        from huggingface_hub import constants, hf_hub_url

        return hf_hub_url(repository.name, name, revision=revision, endpoint=constants.ENDPOINT)

    def headers(self) -> Mapping[str, str]:
        """The headers of a request."""
        from huggingface_hub import constants, get_token

        # Not build_hf_headers: it downloads a list of programs, of any length, to report which one runs this.
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        secret = {} if token is None else {"authorization": f"Bearer {token}"}
        return {"user-agent": f"qwartet/{__version__}", **secret}

    def place(self, listing: Listing) -> Place:
        """Where the files of a listing are, or will be."""
        storage = _storage(listing.repository)
        lock = _cache() / ".locks" / storage.name / "qwartet.lock"
        return Place(storage / "snapshots" / listing.commit, lock, storage / "blobs")

    def finish(self, listing: Listing) -> None:
        """Records on disk that `revision` is `commit`, once all files are there."""
        if is_commit(listing.revision) or not is_safe_revision(listing.revision):
            return
        reference = _storage(listing.repository) / "refs" / listing.revision
        with atomic_write(reference) as path:
            path.write_text(listing.commit, encoding="ascii")

    def snapshot(self, repository: Repository, revision: str) -> Snapshot | None:
        """The local copy of a revision, complete or not; None without a directory."""
        storage, commit = _storage(repository), revision
        if not is_commit(revision):
            if not is_safe_revision(revision):
                return None
            commit = _commit_of(storage / "refs" / revision)
        directory = storage / "snapshots" / commit
        if not is_commit(commit) or not directory.is_dir():
            return None
        return Snapshot(repository, directory, commit, _revisions(storage).get(commit, ()))

    def snapshots(self) -> Iterator[Snapshot]:
        """All local copies."""
        for storage in sorted(_cache().glob("models--*")):
            repository = parse_repository(storage.name.removeprefix("models--").replace("--", "/"))
            if repository is None or not (storage / "snapshots").is_dir():
                continue
            revisions = _revisions(storage)
            for directory in sorted((storage / "snapshots").iterdir()):
                if is_commit(directory.name) and directory.is_dir():
                    yield Snapshot(repository, directory, directory.name, revisions.get(directory.name, ()))

    def removal(self, snapshot: Snapshot, unfinished_blobs: frozenset[str]) -> Removal:
        """How to delete what belongs to a snapshot alone, unfinished contents (by their hashes) included.

        The library does it, because it knows which contents other commits and other models share.
        """
        from huggingface_hub import scan_cache_dir

        storage = snapshot.directory.parent.parent
        is_last = [path.name for path in snapshot.directory.parent.iterdir()] == [snapshot.directory.name]
        left = list((storage / "blobs").glob("*.incomplete"))
        gathered = left if is_last else [path for path in left if path.stem in unfinished_blobs]
        found = scan_cache_dir(_cache())
        # Of this repository only: the library looks for a commit in all of them, and a fork has the same commits.
        found = replace(found, repos=frozenset(repo for repo in found.repos if repo.repo_path == storage.resolve()))
        known = {revision.commit_hash for repo in found.repos for revision in repo.revisions}
        if snapshot.directory.name in known:
            strategy = found.delete_revisions(snapshot.directory.name)

            def execute() -> None:
                for path in gathered:
                    path.unlink(missing_ok=True)
                strategy.execute()

            return Removal(strategy.expected_freed_size + size_of(gathered), execute)
        if not is_last:
            hint = f"remove {storage} yourself, with all its commits"
            raise DownloadError(f"{snapshot.repository}: its cache is damaged and holds other commits too; {hint}")
        return Removal(size_of(list((storage / "blobs").iterdir())), lambda: shutil.rmtree(storage))

    def wording(self) -> Wording:
        """What its error messages say about it."""
        from huggingface_hub import constants

        return Wording(
            endpoint=constants.ENDPOINT,
            is_default_endpoint=constants.ENDPOINT == DEFAULT_ENDPOINT,
            cache=_cache(),
            endpoint_variable="HF_ENDPOINT",
            cache_variable="HF_HOME",
            token_variable="HF_TOKEN",
            alternatives=(
                f"set HF_ENDPOINT to a mirror (for example {_MIRROR})",
                "use --source modelscope (the name modelscope:OWNER/NAME)",
            ),
        )


def _remote_files(kind: str, name: str, commit: str, siblings: Iterable[object]) -> Iterator[RemoteFile]:
    from huggingface_hub import constants, hf_hub_url

    for sibling in siblings:
        entry = sibling if isinstance(sibling, dict) else {}
        file, large = entry.get("rfilename", ""), entry.get("lfs")
        is_name = isinstance(file, str) and file.isprintable() and file != ""
        url = hf_hub_url(name, file, repo_type=kind, revision=commit, endpoint=constants.ENDPOINT) if is_name else ""
        sha256 = large.get("sha256") if isinstance(large, dict) else None
        git_sha1 = entry.get("blobId") if large is None else None  # of a large file it is that of a pointer to it
        yield RemoteFile(file, entry.get("size", -1), sha256, git_sha1, url)


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _storage(repository: Repository) -> Path:
    return _cache() / f"models--{repository.name.replace('/', '--')}"


def _commit_of(reference: Path) -> str:
    try:
        return reference.read_text(encoding="ascii").strip()[:64]
    except (OSError, ValueError):
        return ""


def _revisions(storage: Path) -> dict[str, tuple[str, ...]]:
    """Commit -> the branches and tags that point to it, as far as the cache records them."""
    found: dict[str, tuple[str, ...]] = {}
    for reference in sorted((storage / "refs").rglob("*")):
        if reference.is_file():
            commit = _commit_of(reference)
            found[commit] = (*found.get(commit, ()), reference.relative_to(storage / "refs").as_posix())
    return found
