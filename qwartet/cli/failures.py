"""The line that users see for an exception: what is wrong, and what to do."""

from __future__ import annotations

import re
from typing import Any

import typer

from qwartet.cli.settings.configuration import origin
from qwartet.errors import QwartetError, is_out_of_memory

# Typer has renamed the module with click's exceptions before; this is UsageError, the base of them all.
USAGE_ERROR: Any = typer.BadParameter.__base__

# What Typer passes on from pydantic around the reason.
_PYDANTIC_WORDS = re.compile(r"Value error, |, unable to (?:parse|interpret) [a-z ]+$")

_NO_MEMORY = "use a smaller or more quantised checkpoint, or reduce --max-model-len"


def message(error: BaseException) -> str | None:
    """The line for an exception that is not our bug; None for one that is."""
    if isinstance(error, USAGE_ERROR):
        return _usage_message(error)
    if isinstance(error, QwartetError):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory ({_first_sentence(error)}); {_NO_MEMORY}"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; check the path, its permissions and the free disk space"
    return None


def _first_sentence(error: BaseException) -> str:
    """The figures of torch's message, without the C++ source line before them and the advice after."""
    text = str(error).partition("can't allocate memory: ")[2] or str(error)
    return text.partition(". ")[0].strip() or "no figures"


def _usage_message(error: Any) -> str:
    path = error.ctx.command_path if error.ctx is not None else "qwartet"
    names = getattr(error, "possibilities", None)
    if names:
        text, hint = error.message, f"did you mean {' or '.join(names)}?"
    else:
        text, _, suggestion = error.format_message().partition(". Did you mean ")
        hint = f"did you mean {suggestion}" if suggestion else f"see {path} --help"
    text = _PYDANTIC_WORDS.sub("", text.strip().rstrip(".")).replace("Input should be", "it must be")
    line = f"{text[:1].lower()}{text[1:]}; {hint}"
    parameter = getattr(error, "param", None)
    place = None if parameter is None or error.ctx is None else origin(error.ctx, parameter)
    return line if place is None else f"{place}: {line}"
