"""Where the published data files of the benchmarks are; tests that need them are skipped where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.golden_data import REPOSITORY

_GIVEN = os.environ.get("QWARTET_DATA")
DATA = Path(_GIVEN) if _GIVEN else REPOSITORY.parent / "shared" / "data"


def published(name: str) -> Path:
    """The directory of one benchmark: ceval, gsm8k, humaneval, humanevalpack-python, mmlu, qwen-eval."""
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"no published data here ({name}); set QWARTET_DATA to its directory")
    return path
