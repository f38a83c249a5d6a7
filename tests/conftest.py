"""Prints at the end of a run which golden sets it used and which were absent."""

from __future__ import annotations

from tests import golden_data


def pytest_terminal_summary(terminalreporter) -> None:
    if golden_data.used or golden_data.absent:
        terminalreporter.write_line(f"golden data from {golden_data.golden_root()}")
        terminalreporter.write_line(f"  used:   {', '.join(sorted(golden_data.used)) or 'none'}")
        terminalreporter.write_line(f"  absent: {', '.join(sorted(golden_data.absent)) or 'none'}")
