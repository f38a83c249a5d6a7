"""A hub that lists no hashes: nothing is claimed that was not compared, and no two versions are mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwartet.errors import DownloadError, DownloadWarning
from qwartet.hub.manifest import read_manifests
from qwartet.hub.verification import verify
from tests.hub.fake_hub import COMMIT, NAME, SHARDS, TINY_MODEL, UNWANTED, FakeHub
from tests.hub.test_pull import BOTH, MODELSCOPE, Repository, asked_ranges, fetched, files_of, refusal

NO_HASH = {"blobId": None, "lfs": None, "Sha256": ""}
SHARD, OTHER_COMMIT = SHARDS[0], COMMIT[::-1]
NEW = bytes(len(TINY_MODEL[SHARD]))  # of the same size
quiet = pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")


@pytest.fixture(autouse=True)
def lists_no_hashes(hub: FakeHub) -> None:
    hub.listed = {name: dict(NO_HASH) for name in TINY_MODEL}


@BOTH
def test_a_changed_byte_is_found_by_the_hash_of_what_arrived(hub: FakeHub, repository: Repository) -> None:
    with pytest.warns(DownloadWarning):
        manifest = fetched(repository, COMMIT).manifest
    assert files_of(manifest.directory) == TINY_MODEL
    (manifest.directory / SHARD).write_bytes(NEW)
    found = verify(manifest.directory, manifest, lambda count, total: None)
    assert [problem.partition(":")[0] for problem in found.problems] == [SHARD]
    assert (found.num_by_hash, len(found.unlisted)) == (len(TINY_MODEL), len(TINY_MODEL))


@quiet
def test_files_of_two_commits_are_never_mixed(hub: FakeHub) -> None:
    old = fetched().manifest
    hub.commit, hub.repositories[NAME][SHARD] = OTHER_COMMIT, NEW
    new = fetched().manifest
    assert files_of(old.directory) == TINY_MODEL
    assert files_of(new.directory) == TINY_MODEL | {SHARD: NEW}


@quiet
@BOTH
def test_what_an_earlier_run_gathered_is_not_trusted(hub: FakeHub, repository: Repository) -> None:
    hub.faults[SHARD] = ["cut", *["503"] * 5]
    refused = pytest.raises(DownloadError)
    with refused:
        fetched(repository, COMMIT)
    hub.commit, hub.repositories[NAME][SHARD] = OTHER_COMMIT, NEW
    assert files_of(fetched(repository, OTHER_COMMIT).manifest.directory)[SHARD] == NEW
    hub.commit = COMMIT
    assert files_of(fetched(repository, COMMIT).manifest.directory)[SHARD] == NEW, "what the hub sends now, all of it"


@quiet
@pytest.mark.parametrize(
    ("headers", "is_resumed"), [({}, False), ({"ETag": '"1"'}, True), ({"X-Repo-Commit": COMMIT}, True)]
)
def test_a_connection_that_broke_goes_on_only_in_the_same_version(
    hub: FakeHub, headers: dict[str, str], is_resumed: bool
) -> None:
    hub.headers, hub.faults[SHARD] = headers, ["cut"]
    assert files_of(fetched().manifest.directory) == TINY_MODEL
    assert asked_ranges(hub)[2:] == ([] if is_resumed else [None])


def test_a_file_of_another_commit_than_was_listed_is_refused(hub: FakeHub) -> None:
    hub.headers = {"X-Repo-Commit": OTHER_COMMIT}
    with pytest.warns(DownloadWarning):
        assert "the hub sent it from another commit than it listed" in refusal(DownloadError)


@quiet
@BOTH
def test_a_branch_that_moves_while_it_is_fetched_gives_no_mixture(
    hub: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub sends what the branch has, whatever commit is asked for."""

    def moved(place: object) -> None:
        hub.commit, hub.repositories[NAME] = OTHER_COMMIT, hub.repositories[NAME] | {SHARD: NEW}

    with monkeypatch.context() as during_the_first:
        during_the_first.setattr("qwartet.hub.pull._check_family", moved)
        text = refusal(DownloadError, repository)
    assert f"moved from commit {COMMIT} to {OTHER_COMMIT} during the download" in text
    (record,) = read_manifests()
    assert record.finished_at is None
    new = fetched(repository).manifest
    assert new.commit == OTHER_COMMIT and files_of(new.directory) == TINY_MODEL | {SHARD: NEW}
    hub.commit, hub.repositories[NAME][SHARD] = COMMIT, TINY_MODEL[SHARD]
    assert files_of(fetched(repository).manifest.directory) == TINY_MODEL, "nothing of the mixture is taken"


def test_a_hub_that_says_neither_commit_nor_hashes_is_refused(hub: FakeHub) -> None:
    for name in TINY_MODEL | UNWANTED:
        hub.listed[name] = NO_HASH | {"Revision": "f" * 40}
    assert "lists neither a commit nor hashes" in refusal(DownloadError, MODELSCOPE)
    assert hub.downloads == []


@quiet
@pytest.mark.parametrize(("listed", "sent"), [(0, b"{}"), (3, b"{}"), (1, b"{}")])
def test_a_file_that_has_another_size_than_was_listed_gets_no_name(
    hub: FakeHub, tmp_path: Path, listed: int, sent: bytes
) -> None:
    hub.repositories[NAME]["x.json"] = sent
    hub.listed["x.json"] = NO_HASH | {"size": listed}
    refusal(DownloadError)
    assert not list(tmp_path.rglob("x.json"))


@pytest.mark.parametrize("entry", [{"size": None, "Size": None}, {"size": "", "Size": ""}])
@BOTH
def test_a_file_without_a_size_is_refused(hub: FakeHub, repository: Repository, entry: dict[str, Any]) -> None:
    hub.listed["config.json"] |= entry
    assert "config.json with a size of" in refusal(DownloadError, repository)
