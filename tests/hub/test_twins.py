"""Files of equal bytes: they share a content in the cache, and each of them is right or has no name."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from qwartet.errors import DownloadError, DownloadWarning
from qwartet.hub import fetch
from qwartet.hub.manifest import read_manifests
from qwartet.hub.pull import pull_model
from tests.hub.fake_hub import COMMIT, NAME, SHARDS, TINY_MODEL, FakeHub, sha256
from tests.hub.test_pull import BOTH, HF, Repository, fetched, files_of

TWINS = {f"{letter}.json": b"{}" for letter in "abcd"}
EMPTY = {"empty.json": b"", "nothing.json": b""}
ODD = {"added tokens.json": b"{}", "A.json": b"{}", "\u6a21\u578b.json": b"{}", "x#y?z%20.json": b"{}", "NOTICE": b"{}"}
SHARD_TWINS = {"copy-1.safetensors": TINY_MODEL[SHARDS[0]], "copy-2.safetensors": TINY_MODEL[SHARDS[0]]}


@BOTH
@pytest.mark.parametrize("twins", [TWINS, EMPTY, ODD | TWINS, SHARD_TWINS, TWINS | EMPTY | ODD | SHARD_TWINS])
def test_files_of_equal_bytes_are_all_pulled(hub: FakeHub, repository: Repository, twins: dict[str, bytes]) -> None:
    hub.repositories[NAME] |= twins
    pulled = fetched(repository)
    assert files_of(pulled.manifest.directory) == TINY_MODEL | twins
    assert pulled.num_fetched == len(TINY_MODEL | twins) and pulled.manifest.is_complete
    assert {file.sha256 for file in pulled.manifest.files if file.name in twins} == set(map(sha256, twins.values()))
    assert fetched(repository).num_fetched == 0


def test_twins_are_asked_for_once(hub: FakeHub) -> None:
    hub.repositories[NAME] |= SHARD_TWINS
    fetched()
    assert sum(name in {SHARDS[0], *SHARD_TWINS} for name, _ in hub.downloads) == 1


@BOTH
@pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")
def test_twins_that_were_interrupted_go_on_and_every_byte_is_counted_once(hub: FakeHub, repository: Repository) -> None:
    hub.repositories[NAME] |= SHARD_TWINS
    names = (SHARDS[0], *SHARD_TWINS)
    hub.faults = {name: ["cut", *["503"] * 5] for name in names}
    with pytest.raises(DownloadError):
        fetched(repository)
    hub.faults, heard = {name: ["cut", "flip"] for name in names}, []
    pulled = pull_model(repository, on_bytes=lambda count, total: heard.append(count))
    assert files_of(pulled.manifest.directory) == TINY_MODEL | SHARD_TWINS
    assert sum(heard) == sum(map(len, (TINY_MODEL | SHARD_TWINS).values()))


def test_the_hash_is_of_what_lies_on_the_disk(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another tool writes into the gathered file while it grows."""
    append, spoilt = fetch._Gathered.append, []

    def meddled(self: fetch._Gathered, piece: bytes) -> None:
        append(self, piece)
        if not spoilt and self.path.name.startswith(sha256(TINY_MODEL[SHARDS[0]])):
            spoilt.append(self.path)
            self._stream.flush()
            with self.path.open("r+b") as other:
                other.write(b"WRONG")

    monkeypatch.setattr(fetch._Gathered, "append", meddled)
    with pytest.warns(DownloadWarning, match="wrong hash"):
        pulled = fetched()
    assert spoilt and files_of(pulled.manifest.directory) == TINY_MODEL


@pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")
def test_two_commits_that_share_contents_are_not_fetched_at_once(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor by processes whose records lie in different places: the cache of the hub is one."""
    hub.faults[SHARDS[0]] = ["hang"]
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(fetched())) for _ in range(2)]
    threads[0].start()
    assert hub.hanging.wait(30)
    num_requests = 1 + len(TINY_MODEL)
    deadline = time.monotonic() + 30
    while hub.num_requests < num_requests and time.monotonic() < deadline:  # the other shard is asked for beside it
        time.sleep(0.01)
    monkeypatch.setitem(os.environ, "QWARTET_CACHE", str(tmp_path / "other"))
    hub.commit = COMMIT[::-1]
    threads[1].start()
    threads[1].join(1)
    assert hub.num_requests == num_requests + 1, "the listing alone"
    hub.released.set()
    for thread in threads:
        thread.join(30)
    assert [files_of(outcome.manifest.directory) for outcome in outcomes] == [TINY_MODEL] * 2


def test_a_content_that_is_listed_with_two_sizes_gets_no_name(hub: FakeHub) -> None:
    hub.repositories[NAME] |= TWINS
    hub.listed["b.json"] = {"size": 3}
    with pytest.raises(DownloadError), pytest.warns(DownloadWarning):
        fetched()
    (record,) = read_manifests()
    assert not record.is_complete and not (record.directory / "b.json").exists()
    assert record.repository == HF
