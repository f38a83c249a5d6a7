"""Locks: one holder at a time, released when it dies, never two files under one name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qwartet.files import locked
from tests.golden_data import REPOSITORY


def wait() -> None:
    """The callback of a caller that waits."""


class Busy(Exception):
    """Raised by a caller that does not wait."""


def refuse() -> None:
    raise Busy


HOLD = """
import sys, time
from pathlib import Path
from qwartet.files import locked
with locked(Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_at_a_time_is_in_the_block_whoever_removes_the_file(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with locked(tmp_path / "lock", wait):
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result()
    assert most == 1 and not any(tmp_path.iterdir())


def test_who_does_not_wait_is_told_and_leaves_the_lock_alone(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", wait):
        for _ in range(3):
            with pytest.raises(Busy), locked(tmp_path / "lock", refuse):
                pytest.fail("two at once")
    with locked(tmp_path / "lock", refuse):
        pass


def test_a_killed_process_gives_its_lock_back(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(Busy), locked(tmp_path / "lock", refuse):
        pytest.fail("two at once")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with locked(tmp_path / "lock", refuse):
        assert (tmp_path / "lock").exists()
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_needs_no_lock(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with locked(tmp_path / "lock", refuse):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="lock"), locked(tmp_path / "lock", refuse):
        pytest.fail("locked through a link")
    assert (tmp_path / "precious").read_text() == "kept"
