"""Drives Debian's Chromium through Playwright, if both are installed; never downloads a browser."""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

CHROMIUM = Path("/usr/bin/chromium")
NO_BROWSER = "no browser: "
"""Begins the reason of every test that is skipped for want of one."""


def what_is_missing() -> str | None:
    """What is not here, and the command that brings it, in one line; None where a browser can be driven."""
    missing = []
    if not CHROMIUM.is_file():
        missing.append(f"{CHROMIUM} is missing (apt-get install --no-install-recommends chromium fonts-noto-cjk)")
    if importlib.util.find_spec("playwright") is None:
        missing.append("the package playwright is missing (pip install playwright)")
    return " and ".join(missing) or None


def summary_of_skipped(reports: list[Any]) -> str | None:
    """The last line of a run in which tests were skipped for want of a browser.

    The reason is what they said when they were skipped: the worker may see another machine than the process that sums
    up, or a browser may have been installed in between.
    """
    reasons = [report.longrepr[2] for report in reports if report.skipped and isinstance(report.longrepr, tuple)]
    missing = [reason.partition(NO_BROWSER)[2] for reason in reasons if NO_BROWSER in reason]
    return f"THE PAGE WAS NOT TESTED ({len(missing)} tests skipped): {missing[-1]}" if missing else None


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # else a download with a name in Chinese is called "download"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments, env=environment)
        yield browser
        browser.close()


def expect(what: Any) -> Any:
    """Playwright's, which is imported when a test has a browser: where there is none, it is skipped like the others."""
    from playwright import sync_api

    return sync_api.expect(what)
