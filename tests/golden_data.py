"""Where the oracles come from: `$QWARTET_GOLDEN`, else the compact copy in `tests/data/golden`.

The real vocabulary is not committed. It is taken from the golden directory, or from the wheel of the official
SDK (package `dashscope`) that `make test` downloads into `build/vocabulary`.
"""

from __future__ import annotations

import json
import os
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
COMMITTED_GOLDEN = REPOSITORY / "tests" / "data" / "golden"
VOCABULARY_DOWNLOADS = REPOSITORY / "build" / "vocabulary"
used: set[str] = set()
absent: set[str] = set()


def golden_root() -> Path:
    """Directory of the golden sets."""
    return Path(os.environ.get("QWARTET_GOLDEN") or COMMITTED_GOLDEN)


def golden_path(relative: str) -> Path:
    """Path of a golden file or set; if there is none, skips the test and reports that at the end."""
    path = golden_root() / relative
    if not path.exists():
        absent.add(relative)
        pytest.skip(f"golden set {relative} is not in {golden_root()}")
    used.add(relative)
    return path


def golden_json(relative: str) -> Any:
    """Content of a golden .json file."""
    return json.loads(golden_path(relative).read_text(encoding="utf-8"))


def golden_jsonl(relative: str) -> list[dict[str, Any]]:
    """Cases of a golden .jsonl file, one a line."""
    lines = golden_path(relative).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


@cache
def _vocabulary_from_wheel() -> Path | None:
    for wheel in sorted(VOCABULARY_DOWNLOADS.glob("dashscope-*.whl")):
        target = VOCABULARY_DOWNLOADS / "qwen.tiktoken"
        with zipfile.ZipFile(wheel) as archive:
            target.write_bytes(archive.read("dashscope/resources/qwen.tiktoken"))
        return target
    return None


def real_vocabulary() -> Path:
    """The published qwen.tiktoken (151,643 ranks); skips the test if it is not found."""
    path = golden_root() / "qwen.tiktoken"
    found = path if path.exists() else _vocabulary_from_wheel()
    if found is None:
        absent.add("qwen.tiktoken")
        pytest.skip("the published vocabulary is neither in the golden directory nor downloaded by `make test`")
    used.add("qwen.tiktoken")
    return found
