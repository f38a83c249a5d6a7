"""Sets the threads of the tests, and prints at the end of a run which golden sets it used and which were absent."""

from __future__ import annotations

import os
import signal
import tempfile

# The networks of the tests are tiny: a second thread costs them more than it gives. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a test leaves in a cache is not found by the next run, and never in the user's own.
os.environ["QWARTET_CACHE"] = tempfile.mkdtemp(prefix="qwartet-test-cache-")
# Nor do the user's settings reach a test.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="qwartet-test-config-")

from tests import golden_data

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C, which some send.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter) -> None:
    if golden_data.used or golden_data.absent:
        terminalreporter.write_line(f"golden data from {golden_data.golden_root()}")
        terminalreporter.write_line(f"  used:   {', '.join(sorted(golden_data.used)) or 'none'}")
        terminalreporter.write_line(f"  absent: {', '.join(sorted(golden_data.absent)) or 'none'}")
