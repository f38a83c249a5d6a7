"""What is written to the log: no prompts, no keys, and no messages of errors that may hold them."""

from __future__ import annotations

import logging
import traceback

logger = logging.getLogger("qwartet.server")


def log_failure(what: str, error: BaseException) -> None:
    """Logs where an error came from, and of what kind it is."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with %s\n%s", what, type(error).__name__, frames.rstrip())
