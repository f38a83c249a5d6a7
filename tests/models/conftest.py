"""Checkpoints of the tests here: written once, copied for every test that breaks one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.models.fake_hub import NAME, TINY_MODEL, UNWANTED, FakeHub
from tests.tiny_checkpoint import write_tiny_checkpoint

Copy = Callable[..., Path]


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Directory of a sound checkpoint with these settings of write_tiny_checkpoint; not to be written to."""
    made: dict[str, Path] = {}

    def get(**settings) -> Path:
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = write_tiny_checkpoint(tmp_path_factory.mktemp("pristine") / "model", **settings)
        return made[key]

    return get


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Both hubs of this process, with one tiny model."""
    with FakeHub({NAME: TINY_MODEL | UNWANTED}).serving() as hub:
        hub.become_the_hub(monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def checkpoint(pristine: Callable[..., Path], tmp_path: Path) -> Copy:
    """A copy of such a checkpoint, to be broken."""
    return lambda **settings: Path(shutil.copytree(pristine(**settings), tmp_path / "model"))
