"""Leave to run the code that a model writes: given by the user, and only where a sandbox holds."""

from __future__ import annotations

from qwartet.errors import SettingError
from qwartet.sandbox.walls import Sandbox, find_sandbox


def sandbox_of_task(task: str, *, is_allowed: bool) -> Sandbox:
    """The sandbox of a task. SettingError where code may not be run, or cannot be run safely here."""
    if not is_allowed:
        raise SettingError(
            f"{task} runs code that the model has written; pass --allow-code-execution to run it in a sandbox "
            "(docs/sandbox.md)"
        )
    return find_sandbox()
