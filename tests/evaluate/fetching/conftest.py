"""What the tests of fetching share: a hub on loopback, and a small benchmark on it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.evaluate.fetching.hub_datasets import hub_copy, made_up
from tests.evaluate.fetching.steps import publish
from tests.hub.fake_hub import FakeHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """This process asks a hub that has no datasets yet, and no other host."""
    asked: set[object] = set()
    look_up = socket.getaddrinfo

    def noted(host: Any, *arguments: Any, **named: Any) -> Any:
        asked.add(host)
        return look_up("127.0.0.1", *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    with FakeHub().serving() as hub:
        hub.become_the_hub(monkeypatch, tmp_path)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-datasets")
        yield hub
    assert asked <= {"127.0.0.1"}


@pytest.fixture
def sums(hub: FakeHub, tmp_path: Path) -> dict[str, bytes]:
    """GSM8K with made-up rows, on the hub; its files."""
    files = hub_copy("gsm8k", made_up("gsm8k", tmp_path / "made-up"))
    publish(hub, "gsm8k", files)
    return files
