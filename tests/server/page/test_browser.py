"""Without a browser the tests of the page are skipped, and a run's last line says so, and why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden_data import REPOSITORY

# A plugin of pytest; where a worker has no browser, the process that sums up has found one in the meantime.
WITHOUT = """
import os, pathlib, sys
from tests.server.page import browser
if {where}:
    browser.CHROMIUM = pathlib.Path("/nowhere/chromium")
    sys.modules["playwright"] = None
"""


@pytest.mark.parametrize(
    ("where", "options"), [("True", ()), ("'PYTEST_XDIST_WORKER' in os.environ", ("-n", "1"))], ids=["plain", "worker"]
)
def test_the_last_line_says_that_the_page_was_not_tested_and_what_is_missing(
    tmp_path: Path, where: str, options: tuple[str, ...]
) -> None:
    (tmp_path / "without.py").write_text(WITHOUT.format(where=where))
    command = [sys.executable, "-m", "pytest", "-p", "without", *options, "tests/server/page/test_access.py"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = kept | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    last = result.stdout.splitlines()[-1]
    assert result.returncode == 0, result.stdout
    assert last.startswith("THE PAGE WAS NOT TESTED (") and " 0 tests" not in last
    assert "/nowhere/chromium is missing (apt-get install" in last and "(pip install playwright)" in last
