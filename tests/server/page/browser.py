"""Is there a Chromium here that tests can drive? Debian's, through Playwright; no other browser is ever downloaded."""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

CHROMIUM = Path("/usr/bin/chromium")


def what_is_missing() -> str | None:
    """How to get what is needed, in one line, or None."""
    missing = []
    if not CHROMIUM.is_file():
        missing.append("apt-get install --no-install-recommends chromium fonts-noto-cjk")
    if importlib.util.find_spec("playwright") is None:
        missing.append("pip install playwright")
    return " and ".join(missing) or None


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield browser
        browser.close()
