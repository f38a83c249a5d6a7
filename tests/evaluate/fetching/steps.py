"""What the tests of fetching do: publish a dataset, fetch it, and see that fetching fails as it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwartet.errors import DownloadError
from qwartet.evaluate.data.fetching import Fetched, fetch_benchmark
from qwartet.evaluate.data.hub_copies import HUB_COPIES
from tests.hub.fake_hub import FakeHub

GSM8K = "main/test-00000-of-00001.parquet"


def publish(hub: FakeHub, name: str, files: dict[str, bytes]) -> None:
    """Puts a benchmark's dataset on the hub, at the commit that is fetched."""
    copy = HUB_COPIES[name]
    hub.repositories[f"datasets/{copy.dataset}"] = files
    if copy.revision != "main":
        hub.commits[f"datasets/{copy.dataset}"] = copy.revision


def fetch(name: str, data: Path, *, overwrite: bool = False) -> Fetched:
    return fetch_benchmark(name, data, lambda *_: None, overwrite=overwrite)


def assert_fails(name: str, data: Path, *reasons: str, kept: bool = False) -> str:
    """Fetching raises one line that says what to do, and leaves nothing."""
    before = sorted(data.rglob("*")) if data.exists() else []
    with pytest.raises(DownloadError) as caught:
        fetch(name, data, overwrite=kept)
    text = str(caught.value)
    assert text.startswith(f"{HUB_COPIES[name].dataset}: ") and "; " in text and text.isprintable(), text
    for reason in reasons:
        assert reason in text, text
    assert (sorted(data.rglob("*")) if data.exists() else []) == before
    return text
