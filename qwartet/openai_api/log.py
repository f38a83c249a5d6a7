"""Logging of failures, without prompts, keys, or error messages that may contain them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextvars import ContextVar

MAX_FRAMES = 30  # the innermost ones, per error
MAX_CAUSES = 4
logger = logging.getLogger("qwartet.server")
request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being answered; empty outside of one."""


def log_failure(what: str, error: BaseException) -> None:
    """Logs the type of an error and its frames, and those of its causes."""
    place = f"request {request_id.get()}: {what}" if request_id.get() else what
    told = "\n".join(line for one in _chain(error) for line in _lines(one))
    logger.error("%s failed with %s", place, told)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(MAX_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _lines(error: BaseException) -> list[str]:
    """The type of an error and its frames, without source lines, which may contain test input."""
    frames = traceback.StackSummary.extract(
        traceback.walk_tb(error.__traceback__), limit=-MAX_FRAMES, lookup_lines=False
    )
    return [type(error).__name__, *(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)]
