"""Without a browser the page tests are skipped, and the last line of the run says so and why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.golden_data import REPOSITORY

# A plugin of pytest: nothing is here while tests are collected and run, and all is found when they are summed up.
WITHOUT = """
from pathlib import Path
import sys
from tests.server.page import browser

browser.CHROMIUM = Path("/nowhere/chromium")
sys.modules["playwright"] = None

def pytest_terminal_summary():
    browser.CHROMIUM = Path(sys.executable)
    del sys.modules["playwright"]
"""


def test_the_last_line_says_that_the_page_was_not_tested_and_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "without.py").write_text(WITHOUT)
    options = ("-p", "without", "-p", "no:schemathesis")
    command = [sys.executable, "-m", "pytest", *options, "tests/server/page/test_answers.py"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    last = result.stdout.splitlines()[-1]
    assert result.returncode == 0, result.stdout
    assert last.startswith("THE PAGE WAS NOT TESTED (") and " 0 tests" not in last
    assert "/nowhere/chromium is missing (apt-get install" in last and "(pip install playwright)" in last
