"""Download of a model from a hub: list its files, check the disk, download, verify hashes, record."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.checkpoint.other_kinds import ADAPTER_CONFIG, adapter_error, check_senses
from qwartet.errors import DownloadError, DownloadWarning, ModelNotFoundError
from qwartet.files import check_free_space, locked
from qwartet.hub.download_errors import explain
from qwartet.hub.fetch import Stopped, Transfer, fetch_file, hash_file
from qwartet.hub.hubs import HUBS, Hub
from qwartet.hub.listing import Listing, RemoteFile, named
from qwartet.hub.manifest import Manifest, ManifestFile, read_manifests, write_manifest
from qwartet.hub.repository import Repository
from qwartet.hub.snapshot import Place, unfinished
from qwartet.hub.stored import has_unfinished
from qwartet.models.model_types import checked_model_type

NUM_AT_ONCE = 4  # files

OnBytes = Callable[[int, int], None]
"""Called with the number of new bytes (negative when some are discarded) and the total."""


@dataclass(frozen=True)
class Pulled:
    """What `pull_model` did."""

    manifest: Manifest
    num_fetched: int  # files; the others were here already


def pull_model(
    repository: Repository, revision: str | None = None, *, on_bytes: OnBytes | None = None, near: str | None = None
) -> Pulled:
    """Downloads the missing files of a model; without `on_bytes`, with huggingface_hub's progress bar.

    ModelNotFoundError, DownloadError, CheckpointError (another family of models) and SettingError (no space) say what
    to do; `near` asks whether another name was meant.
    """
    hub = HUBS[repository.hub]
    revision = revision or hub.default_revision
    try:
        listing = hub.listing(repository, revision)
        if not any(file.name.endswith(".safetensors") for file in listing.files):
            reason = "has no .safetensors files, and Qwartet loads no others (pickled weights can run code)"
            hint = "choose another model or revision, or download it with another tool and run `qwartet convert`"
            raise ModelNotFoundError(f"{repository}: the model on the hub {reason}; {hint}")

        def on_busy() -> None:
            text = f"{repository}: another process is downloading it; waiting for it to finish"
            warnings.warn(text, DownloadWarning, stacklevel=2)

        with locked(hub.place(listing).lock, on_busy):
            return _complete(hub, listing, on_bytes)
    # No shorter list would be complete: the hub library has exceptions of its own and has changed its HTTP client.
    except Exception as error:
        has_partial = has_unfinished(repository)
        raise explain(repository, revision, error, hub.wording(), near, has_partial=has_partial) from error


def _begun(hub: Hub, listing: Listing) -> Manifest:
    """The record of a listing of which nothing has been downloaded."""
    return Manifest(
        repository=listing.repository,
        revision=listing.revision,
        commit=listing.commit,
        endpoint=listing.endpoint,
        directory=hub.place(listing).directory,
        started_at=_now(),
        finished_at=None,
        files=tuple(ManifestFile(file.name, file.size, file.blob) for file in listing.files),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _complete(hub: Hub, listing: Listing, on_bytes: OnBytes | None) -> Pulled:
    """Downloads the files that no earlier run has verified."""
    place, manifest = hub.place(listing), _known(_begun(hub, listing))
    # That a file without a hash belongs to this commit is only known at the end of a pull.
    known = [file for file in manifest.files if file.sha256 is not None and (file.blob or manifest.finished_at)]
    right = {file.name for file in known if manifest.is_here(file)}
    missing = [file for file in listing.files if file.name not in right]
    _check_space(hub, place, missing)
    place.directory.mkdir(parents=True, exist_ok=True)
    (place.blobs or place.directory).mkdir(parents=True, exist_ok=True)
    if missing:
        manifest = replace(manifest, finished_at=None)
    if unhashed := [file.name for file in listing.files if not file.has_hash]:
        text = f"{listing.repository}: the hub lists no hash for {named(unhashed)}; only the size is verified"
        warnings.warn(text, DownloadWarning, stacklevel=3)
    write_manifest(manifest)
    here = listing.num_bytes - sum(file.size for file in missing)
    num_fetched = 0

    def on_right(file: RemoteFile, sha256: str, is_new: bool) -> None:
        nonlocal manifest, num_fetched
        num_fetched += is_new
        manifest = manifest.with_file(file.name, sha256)
        write_manifest(manifest)

    with _progress(str(listing.repository), here, listing.num_bytes, on_bytes) as count:
        headers = hub.headers() if missing else {}
        small = [file for file in missing if not file.name.endswith(".safetensors")]
        _fetch_all(small, place, headers, count, on_right)
        _check_family(place)  # before the weights, which are large
        _fetch_all([file for file in missing if file not in small], place, headers, count, on_right)
    if any(not file.has_hash for file in missing):
        _check_unmoved(hub, listing)
    hub.finish(listing)
    manifest = replace(manifest, finished_at=manifest.finished_at or _now())
    write_manifest(manifest)
    return Pulled(manifest, num_fetched)


def _check_unmoved(hub: Hub, listing: Listing) -> None:
    """DownloadError where a branch has moved during the download of files that only their commit identifies."""
    now = hub.listing(listing.repository, listing.revision)
    if now.commit != listing.commit:
        raise DownloadError(
            f"{listing.revision} moved from commit {listing.commit} to {now.commit} during the download, and without "
            "hashes the files of the two cannot be told apart; run the command again"
        )


def _known(begun: Manifest) -> Manifest:
    """The same record with the files that an earlier run has verified."""
    for earlier in read_manifests():
        if earlier.path == begun.path and earlier.directory == begun.directory:
            files = {(file.name, file.size, file.blob): file for file in earlier.files}
            kept = tuple(files.get((file.name, file.size, file.blob), file) for file in begun.files)
            return replace(begun, started_at=earlier.started_at, finished_at=earlier.finished_at, files=kept)
    return begun


def _check_space(hub: Hub, place: Place, missing: Sequence[RemoteFile]) -> None:
    needed = 0
    for file in missing:
        if place.existing(file.name, file.blob) is None:
            gathered = unfinished(place.content(file.name, file.blob))
            needed += max(file.size - (gathered.stat().st_size if gathered.is_file() else 0), 0)
    variable = hub.wording().cache_variable
    check_free_space(place.directory, needed, f"free some, set {variable} to a larger disk, or choose a smaller model")


def _check_family(place: Place) -> None:
    config_path = place.directory / "config.json"
    if not has_file(config_path) and has_file(place.directory / ADAPTER_CONFIG):
        raise adapter_error(place.directory)
    config = read_json(config_path)
    checked_model_type(config, config_path)
    check_senses(config, config_path)


def _fetch_all(
    files: Sequence[RemoteFile],
    place: Place,
    headers: Mapping[str, str],
    count: Callable[[int], None],
    on_right: Callable[[RemoteFile, str, bool], None],
) -> None:
    """Downloads files, several at a time; `on_right` is called with each one, its SHA-256, and whether it is new."""
    stop, lock = Event(), Lock()

    def on_bytes(num_bytes: int) -> None:
        if stop.is_set():
            raise Stopped
        with lock:
            count(num_bytes)

    transfer = Transfer(headers, on_bytes, stop)
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        try:
            contents: dict[Path, list[RemoteFile]] = {}  # files of equal bytes can share one
            for file in files:
                contents.setdefault(place.content(file.name, file.blob), []).append(file)
            futures = [pool.submit(_keep_all, same, place, transfer) for same in contents.values()]
            for future in as_completed(futures):
                for file, sha256, is_new in future.result():
                    on_right(file, sha256, is_new)
        except BaseException:  # Ctrl-C too: the other files stop where they are
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _keep_all(files: Sequence[RemoteFile], place: Place, transfer: Transfer) -> list[tuple[RemoteFile, str, bool]]:
    """Makes sure that files of one content are in place, the first before the others; see _keep."""
    kept = [(file, *_keep(file, place, transfer)) for file in files]
    is_new = any(new for _, _, new in kept)
    return [(file, sha256, is_new) for file, sha256, _ in kept]


def _keep(file: RemoteFile, place: Place, transfer: Transfer) -> tuple[str, bool]:
    """Makes sure that a file is in place and verified: its SHA-256, and whether it was downloaded."""
    existing = place.existing(file.name, file.blob)
    if existing is not None and file.has_hash:
        hashes = hash_file(existing, with_git=file.sha256 is None, on_bytes=transfer.on_bytes)
        if hashes.num_bytes == file.size and hashes.match(file.sha256, file.git_sha1):
            if existing != place.directory / file.name:
                place.publish(file.name, file.blob)
            return hashes.sha256, False
        transfer.on_bytes(-hashes.num_bytes)
        text = f"{file.name}: the local file does not have the hash that the hub lists; downloading it again"
        warnings.warn(text, DownloadWarning, stacklevel=2)
    sha256 = fetch_file(file, place.content(file.name, file.blob), transfer)
    place.publish(file.name, file.blob)
    return sha256, True


@contextmanager
def _progress(name: str, done: int, total: int, on_bytes: OnBytes | None) -> Iterator[Callable[[int], None]]:
    if on_bytes is not None:
        if 0 < done < total:
            on_bytes(done, total)
        yield lambda count: on_bytes(count, total)
        return
    from huggingface_hub.utils.tqdm import tqdm

    with tqdm(desc=name, initial=done, total=total, unit="B", unit_scale=True) as bar:  # type: ignore[no-untyped-call]
        yield bar.update
