"""Lines kept between runs: private, bounded, and never a reason to fail."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qwartet.cli.chat import line_history
from qwartet.cli.chat.line_history import LineHistory


def kept(path: Path) -> list[str]:
    """What the next run finds, the newest first."""
    return list(LineHistory(path).load_history_strings())


def test_lines_are_found_by_the_next_run(tmp_path: Path) -> None:
    history = LineHistory(tmp_path / "new" / "history")
    for line in ("one", "two\nlines", "你好"):
        history.store_string(line)
    assert kept(tmp_path / "new" / "history") == ["你好", "two\nlines", "one"]


def test_only_the_owner_can_read_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history"
    LineHistory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    LineHistory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_broken_file_loses_nothing_but_its_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_bytes(b"\x00\xff garbage\n\n# now\n+\xff one\n")
    LineHistory(path).store_string("two")
    assert kept(path) == ["two", "\ufffd one"]


@pytest.mark.parametrize("kind", ["directory", "pipe", "below a file", "link to nowhere"])
def test_a_place_where_nothing_can_be_kept_is_no_failure(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "history"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "below a file":
        path.write_text("")
        path = path / "history"
    else:
        path.symlink_to(tmp_path / "no" / "where")
    history = LineHistory(path)
    history.store_string("one")
    assert list(history.load_history_strings()) == []


def test_a_disk_that_fills_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = LineHistory(tmp_path / "history")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", fail)
    history.store_string("one")


def test_the_oldest_lines_of_a_long_file_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history"
    history = LineHistory(path)
    lines = [f"line {number}" for number in range(200)]
    for line in lines:
        history.store_string(line)
    monkeypatch.setattr(line_history, "MAX_HISTORY_BYTES", 2000)
    found = kept(path)
    assert 10 < len(found) < 100 and path.stat().st_size < 1100
    assert found == lines[: -len(found) - 1 : -1]
