"""Checkpoints of stock models, each written once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A stock model and the directory of its checkpoint by the name of its case; neither may be changed."""
    from tests.families.stock import new_model, save

    made: dict[str, tuple[Any, Path]] = {}

    def get(case: str) -> tuple[Any, Path]:
        if case not in made:
            model = new_model(case)
            made[case] = model, save(model, tmp_path_factory.mktemp("stock") / "model")
        return made[case]

    return get


@pytest.fixture
def copied(stock: Callable[[str], tuple[Any, Path]], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of such a directory, to be changed."""
    return lambda case: Path(shutil.copytree(stock(case)[1], tmp_path / "model"))
