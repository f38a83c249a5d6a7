"""Checkpoints of the tests here: written once, copied for every test that breaks one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

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
def checkpoint(pristine: Callable[..., Path], tmp_path: Path) -> Copy:
    """A copy of such a checkpoint, to be broken."""
    return lambda **settings: Path(shutil.copytree(pristine(**settings), tmp_path / "model"))
