"""The config.json of a model on a hub is fetched alone, within bounds, and nothing is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwartet.errors import CheckpointError, DownloadError, ModelNotFoundError, QwartetError
from qwartet.hub.answers import MAX_ANSWER_BYTES
from qwartet.hub.remote_config import fetch_config
from tests.hub.fake_hub import COMMIT, CONFIG, NAME, FakeHub
from tests.hub.test_pull import BOTH, HF, Repository, named_files

pytestmark = pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")


def refusal(kind: type[QwartetError], repository: Repository, revision: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        fetch_config(repository, revision)
    text = str(caught.value)
    assert "\n" not in text and "; " in text, text
    return text


@BOTH
@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_one_request_fetches_it_and_nothing_is_kept(
    hub: FakeHub, repository: Repository, tmp_path: Path, revision: str | None
) -> None:
    assert fetch_config(repository, revision) == json.loads(CONFIG)
    assert (hub.num_requests, hub.downloads) == (1, [("config.json", None)])
    assert named_files(tmp_path) == []


def test_the_token_of_the_hub_goes_with_it(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_config(HF)
    assert hub.tokens == {"Bearer hf_secret"}


@BOTH
def test_a_busy_hub_is_asked_again(hub: FakeHub, repository: Repository) -> None:
    hub.faults["config.json"] = ["503", "429"]
    assert fetch_config(repository) == json.loads(CONFIG)


@BOTH
def test_each_refusal_says_what_to_do(hub: FakeHub, repository: Repository) -> None:
    unknown = Repository(repository.hub, "Somebody/Nothing")
    assert f"no such model on {hub.endpoint}; check the spelling" in refusal(ModelNotFoundError, unknown)
    assert "no revision 'v9' on the hub" in refusal(ModelNotFoundError, repository, "v9")
    hub.faults["config.json"] = ["gated", "401"]
    assert "gated model; accept its terms" in refusal(ModelNotFoundError, repository)
    assert "denies access (401)" in refusal(ModelNotFoundError, repository)
    hub.repositories[NAME] = {"adapter_config.json": b"{}"}
    assert "no config.json in the model on the hub" in refusal(ModelNotFoundError, repository)


@BOTH
def test_offline_no_connection_is_tried(hub: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(ModelNotFoundError, repository)
    assert hub.num_requests == 0


@BOTH
@pytest.mark.parametrize("content", [b"[]", b"7", b'"qwen"', b"null"])
def test_what_is_no_object_is_refused(hub: FakeHub, repository: Repository, content: bytes) -> None:
    hub.repositories[NAME]["config.json"] = content
    assert f"{NAME}/config.json: is not a JSON object" in refusal(CheckpointError, repository)


@BOTH
@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b"[" * 100_000])
def test_what_is_no_json_is_refused(hub: FakeHub, repository: Repository, content: bytes) -> None:
    hub.repositories[NAME]["config.json"] = content
    assert f"{repository}: config.json is not valid JSON" in refusal(DownloadError, repository)


@BOTH
def test_a_large_or_endless_file_is_not_read_to_its_end(hub: FakeHub, repository: Repository) -> None:
    hub.repositories[NAME]["config.json"] = b" " * (MAX_ANSWER_BYTES + 1)
    assert f"config.json is longer than {MAX_ANSWER_BYTES} bytes" in refusal(DownloadError, repository)
    hub.faults["config.json"] = ["endless"]
    assert f"config.json is longer than {MAX_ANSWER_BYTES} bytes" in refusal(DownloadError, repository)
    assert hub.num_endless_bytes < 16 * 2**20
