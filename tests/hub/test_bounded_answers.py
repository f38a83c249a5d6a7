"""Answers without an end, and answers that are no answers, take bounded memory and end in one line."""

from __future__ import annotations

import tracemalloc

import pytest

from qwartet.errors import DownloadError, DownloadWarning, ModelNotFoundError, QwartetError
from qwartet.hub.answers import MAX_ANSWER_BYTES
from tests.hub.fake_hub import SHARDS, FakeHub
from tests.hub.test_pull import BOTH, HF, Repository, fetched, refusal

SOCKET_BYTES = 16 * 2**20  # what the system takes before anybody reads it

ENDLESS = ["endless", "endless 500", "endless 404", "endless 403", "endless 416", "endless 302", "endless 301"]


@BOTH
@pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")
@pytest.mark.parametrize("fault", ENDLESS)
@pytest.mark.parametrize("where", ["listing", "config.json", SHARDS[0]])
def test_a_body_without_an_end_is_not_read_to_its_end(
    hub: FakeHub, repository: Repository, where: str, fault: str
) -> None:
    hub.faults[where] = [fault] * 30
    tracemalloc.start()
    try:
        with pytest.raises(QwartetError) as caught:
            fetched(repository)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
    assert hub.num_endless_bytes < 30 * SOCKET_BYTES
    assert len(str(caught.value)) < 500


@BOTH
@pytest.mark.parametrize(
    "answer",
    [
        b"[" * 100_000,
        b'{"siblings":' * 100_000,
        b'{"sha": "' + b"a" * (MAX_ANSWER_BYTES + 1),
        b"[]",
        b"7" * 5000,
        b'{"siblings": {}, "Data": []}',
        b'{"siblings": [7, null, {"rfilename": 7}], "Data": {"Files": [{"Path": 7}]}}',
        b"\xff\xfe",
        b"",
    ],
)
def test_an_answer_that_lists_no_model_is_one_line(hub: FakeHub, repository: Repository, answer: bytes) -> None:
    hub.answer, hub.faults["listing"] = answer, ["json"]
    assert len(refusal(DownloadError, repository)) < 500


@pytest.mark.parametrize("status", ["304", "204"])
def test_a_status_that_brings_no_content_is_asked_again(hub: FakeHub, status: str) -> None:
    hub.faults = {"listing": [status], SHARDS[0]: [status]}
    with pytest.warns(DownloadWarning, match=f"status {status} without content"):
        assert fetched().manifest.is_complete


def test_redirects_are_followed_a_few_times(hub: FakeHub) -> None:
    hub.faults["listing"] = ["loop"] * 20
    assert fetched(HF).manifest.is_complete
    hub.faults["listing"] = ["loop"] * 21
    refusal(ModelNotFoundError)
