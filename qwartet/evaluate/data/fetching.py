"""A benchmark's data from the hub: downloaded by `datasets`, verified, written as published, counted, put in place.

The files of a commit are named by us; a dataset's card and code are neither read nor downloaded. What arrives is
compared with the hashes that the hub lists. Nothing appears in the data directory before all rows are there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from qwartet.errors import DataError, DownloadError, DownloadWarning, SettingError
from qwartet.evaluate.data.fetch_errors import explained
from qwartet.evaluate.data.hub_copies import HUB_COPIES, HubCopy
from qwartet.evaluate.data.hub_tables import CHECK_MIRROR, HubFiles
from qwartet.files import sha256_of
from qwartet.hub.fetch import hash_file
from qwartet.hub.hugging_face import HuggingFace
from qwartet.hub.listing import Listing, RemoteFile, named
from qwartet.hub.repository import Repository

SOURCE_FILE = "SOURCE.json"
MAX_BYTES = 2**28  # of a benchmark; the largest, L-Eval, has less than 30 MB
_AT_ONCE = 32  # files: as many as `datasets` downloads at the same time


@dataclass(frozen=True)
class Fetched:
    """A benchmark's data in place; of data that was there before, only where it is."""

    name: str
    directory: Path
    dataset: str = ""
    commit: str = ""
    num_rows: int = 0

    @property
    def was_there(self) -> bool:
        return not self.commit


def check_names(names: Sequence[str]) -> list[str]:
    """The benchmarks to fetch for these names, each once; SettingError for one that the hub does not have."""
    found: list[str] = []
    for name in (name.strip() for name in names if name.strip()):
        if name not in ("all", "ceval-test", *HUB_COPIES):
            hint = f"choose from {', '.join(HUB_COPIES)} or all, and see docs/evaluate.md for other data"
            raise SettingError(f"cannot fetch {name!r:.60}; {hint}", param="tasks")
        found += HUB_COPIES if name == "all" else ["ceval" if name == "ceval-test" else name]
    if not found:
        raise SettingError(f"no task named; choose from {', '.join(HUB_COPIES)} or all", param="tasks")
    if find_spec("datasets") is None:
        raise SettingError("fetch needs the library datasets; install it: pip install 'qwartet[data]'")
    return list(dict.fromkeys(found))


def fetch_benchmark(name: str, data: Path, on_bytes: Callable[[int, int], None], *, overwrite: bool) -> Fetched:
    """Writes a benchmark's files into DATA/NAME, unless they are there; `on_bytes` gets the bytes of each step and all.

    DownloadError says what to do; DataError where DATA/NAME has a part of the files and `overwrite` is not set.
    """
    copy, target = HUB_COPIES[name], data / name
    here = [entry for entry in copy.entries if (target / entry).exists()]
    if here and not overwrite:
        if missing := [entry for entry in copy.entries if entry not in here]:
            reason = f"has {', '.join(here)} but not {', '.join(missing)}"
            raise DataError(target, reason, hint="pass --overwrite to replace them, or move them away")
        return Fetched(name, target)
    try:
        with _without_bars():
            listing = _listed(copy)
            paths = _downloaded(listing, on_bytes)
            data.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".{name}.", suffix=".tmp", dir=data) as scratch:
                new = Path(scratch, "new")
                new.mkdir()
                copy.write(HubFiles(copy.dataset, paths, Path(scratch, "cache")), new)
                rows = _counted(copy, new)
                _write_source(new, copy, listing, rows)
                _publish(new, target, Path(scratch, "old"))
    # The libraries have exceptions of their own and have changed their HTTP client.
    except Exception as error:
        raise explained(copy, data, error) from error
    return Fetched(name, target, copy.dataset, listing.commit, sum(rows.values()))


@contextmanager
def _without_bars() -> Iterator[None]:
    """The libraries draw no progress bars, since the caller hears of the bytes."""
    import datasets
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    again: list[Callable[[], None]] = []
    if not datasets.are_progress_bars_disabled():
        datasets.disable_progress_bars()
        again.append(datasets.enable_progress_bars)
    if not are_progress_bars_disabled():
        disable_progress_bars()
        again.append(enable_progress_bars)
    try:
        yield
    finally:
        for enable in again:
            enable()


def _listed(copy: HubCopy) -> Listing:
    """The wanted files at a commit of the dataset."""
    import datasets

    if datasets.config.HF_HUB_OFFLINE:
        hint = "unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, or put the published files into --data by hand"
        raise DownloadError(f"{copy.dataset}: the hub may not be used offline; {hint}")
    listing = HuggingFace().dataset_listing(Repository("hf", copy.dataset), copy.revision, copy.wanted)
    if not listing.files:
        raise DownloadError(f"{copy.dataset}: none of the expected files at {listing.commit}; {CHECK_MIRROR}")
    if listing.num_bytes > MAX_BYTES:
        raise DownloadError(f"{copy.dataset}: {listing.num_bytes:,} bytes, unlike the published data; {CHECK_MIRROR}")
    if unhashed := [file.name for file in listing.files if not file.has_hash]:
        text = f"{copy.dataset}: the hub lists no hash for {named(unhashed)}; only the size is verified"
        warnings.warn(text, DownloadWarning, stacklevel=3)
    return listing


def _downloaded(listing: Listing, on_bytes: Callable[[int, int], None]) -> dict[str, Path]:
    """The files of a listing in the hub's cache, by their names; DownloadError for one with other bytes than listed."""
    found: dict[str, Path] = {}
    for start in range(0, len(listing.files), _AT_ONCE):
        files = listing.files[start : start + _AT_ONCE]
        found |= _download(listing, files)
        if wrong := [file for file in files if not _is_right(file, found[file.name])]:
            for file in wrong:
                found[file.name].unlink()  # the library would keep a link to what another mirror sent for this commit
            found |= _download(listing, wrong, again=True)
        if wrong := [file for file in wrong if not _is_right(file, found[file.name])]:
            reason = f"{wrong[0].name}: wrong hash twice, not the one that the hub lists"
            raise DownloadError(f"{listing.repository}: {reason}; {CHECK_MIRROR}")
        on_bytes(sum(file.size for file in files), listing.num_bytes)
    return found


def _download(listing: Listing, files: Sequence[RemoteFile], *, again: bool = False) -> dict[str, Path]:
    from datasets import DownloadConfig, DownloadManager

    manager = DownloadManager(download_config=DownloadConfig(force_download=again))
    urls = [f"hf://datasets/{listing.repository.name}@{listing.commit}/{file.name}" for file in files]
    return {file.name: Path(path) for file, path in zip(files, manager.download(urls), strict=True)}


def _is_right(file: RemoteFile, path: Path) -> bool:
    hashes = hash_file(path, with_git=file.sha256 is None, on_bytes=lambda _: None)
    return hashes.num_bytes == file.size and hashes.match(file.sha256, file.git_sha1)


def _counted(copy: HubCopy, directory: Path) -> dict[str, int]:
    """Rows by split, read as the task will read them; DownloadError where they are not the published ones."""
    found: dict[str, int] = {}
    for split in copy.splits:
        try:
            found[split.name] = sum(copy.count(directory / file) for file in split.files)
        except DataError as error:
            reason = str(error).replace(f"{directory}/", "").partition("; ")[0]
            raise DownloadError(f"{copy.dataset}: not the published rows ({reason}); {CHECK_MIRROR}") from error
        if found[split.name] != (split.num_rows or found[split.name]):
            counts = f"{found[split.name]:,} rows in {split.name}, not the published {split.num_rows:,}"
            raise DownloadError(f"{copy.dataset}: {counts}; {CHECK_MIRROR}")
    return found


def _write_source(directory: Path, copy: HubCopy, listing: Listing, rows: dict[str, int]) -> None:
    source = {
        "dataset": copy.dataset,
        "commit": listing.commit,
        "endpoint": listing.endpoint,
        "licence": copy.licence,
        "date": datetime.now(UTC).date().isoformat(),
        "rows": rows,
        "sha256": {file: sha256_of(directory / file) for split in copy.splits for file in split.files},
    }
    (directory / SOURCE_FILE).write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")


def _publish(new: Path, target: Path, old: Path) -> None:
    """Moves files and folders into place, each in one step; what they replace goes to `old`, other files stay."""
    if not target.exists():
        new.rename(target)
        return
    old.mkdir()
    for path in sorted(new.iterdir(), key=lambda path: path.name == SOURCE_FILE):  # last: it vouches for the others
        place = target / path.name
        if place.is_dir():
            place.rename(old / path.name)
        path.rename(place)
