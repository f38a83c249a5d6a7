"""A proxy that compresses, or that answers with another part than was asked for, does no harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwartet.errors import DownloadError
from qwartet.hub import answers
from qwartet.hub.answers import TryAgain
from tests.hub.fake_hub import NAME, SHARDS, TINY_MODEL, FakeHub, sha256
from tests.hub.test_pull import BOTH, Repository, asked_ranges, fetched, files_of, named_files, refusal

SHARD = SHARDS[0]
pytestmark = pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")


@BOTH
def test_identity_is_asked_for_and_nothing_that_is_not_needed(
    hub: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", str(tmp_path / "none"))
    fetched(repository)
    assert hub.codings == {"identity"}
    assert hub.num_requests == 1 + len(TINY_MODEL)


@BOTH
@pytest.mark.parametrize("where", ["listing", "config.json", SHARD])
def test_what_a_proxy_compressed_is_unpacked(hub: FakeHub, repository: Repository, where: str) -> None:
    hub.faults[where] = ["gzip"] * 5
    assert files_of(fetched(repository).manifest.directory) == TINY_MODEL


@BOTH
@pytest.mark.parametrize("where", ["listing", "config.json", SHARD])
def test_a_compression_that_cannot_be_undone_is_refused(
    hub: FakeHub, repository: Repository, where: str, tmp_path: Path
) -> None:
    hub.faults[where] = ["br"]
    assert "compressed by a proxy (br), which was not requested; bypass the proxy" in refusal(DownloadError, repository)
    assert not [content for content in named_files(tmp_path) if content.startswith(b"\x1b\x03")]


@BOTH
@pytest.mark.parametrize("second", ["gzip", "gzip part", "whole", "other part", "416", "cut", "304"])
def test_a_file_that_broke_off_is_right_however_the_rest_is_answered(
    hub: FakeHub, repository: Repository, second: str
) -> None:
    hub.faults[SHARD] = ["cut", second]
    assert files_of(fetched(repository).manifest.directory) == TINY_MODEL


def test_compressed_bytes_that_lie_here_already_are_not_taken(hub: FakeHub, tmp_path: Path) -> None:
    """An older version, or another tool, gathered what a proxy had compressed."""
    storage = tmp_path / "hf" / f"models--{NAME.replace('/', '--')}" / "blobs"
    storage.mkdir(parents=True)
    (storage / f"{sha256(TINY_MODEL[SHARD])}.incomplete").write_bytes(b"\x1f\x8b" + bytes(100))
    assert files_of(fetched().manifest.directory) == TINY_MODEL


@pytest.mark.parametrize("part", ["bytes 7-9/102400", "bytes 0-9/11", "", "pages 0-9/102400"])
def test_a_part_that_was_not_asked_for_is_not_taken(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """The whole was asked for."""
    hub.part = part
    hub.faults[SHARD] = ["unasked part"]
    assert files_of(fetched().manifest.directory) == TINY_MODEL
    assert asked_ranges(hub) == [None, None]


def test_a_bomb_is_unpacked_in_pieces_and_ends_at_the_size_that_is_listed(hub: FakeHub) -> None:
    hub.repositories[NAME]["big.json"] = bytes(64 * 2**20)
    hub.listed["big.json"] = {"size": 100}
    hub.faults["big.json"] = ["gzip"] * 6
    assert "sent more than the listed 100 bytes" in refusal(DownloadError)
    hub.repositories[NAME] |= {f"{number}.json": b"" for number in range(200)}
    hub.answer, hub.faults = bytes(64 * 2**20), {"listing": ["json gzip"]}
    assert "the hub's answer is longer than" in refusal(DownloadError)


def test_pieces_of_what_is_unpacked_are_bounded_and_damage_is_found() -> None:
    import gzip

    packed = gzip.compress(bytes(10 * 2**20)) + gzip.compress(b"and more")

    def pieces(content: bytes) -> Iterator[bytes]:
        yield from (content[start : start + 1000] for start in range(0, len(content), 1000))

    found = list(answers._unpacked(pieces(packed)))
    assert b"".join(found) == bytes(10 * 2**20) + b"and more" and max(map(len, found)) <= 2**20
    with pytest.raises(TryAgain):
        list(answers._unpacked(pieces(b"not packed at all")))
