"""The hubs of the tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.fake_hub import NAME, TINY_MODEL, UNWANTED, FakeHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Both hubs of this process, with one tiny model."""
    with FakeHub({NAME: TINY_MODEL | UNWANTED}).serving() as hub:
        hub.become_the_hub(monkeypatch, tmp_path)
        yield hub
