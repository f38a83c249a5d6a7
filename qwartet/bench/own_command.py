"""A command of ours in a process of its own, so that a measurement shares nothing with the one before."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from qwartet.bench.peers.alternation import run_to_end
from qwartet.errors import SettingError


def own_json(
    *arguments: str, environment: Mapping[str, str] | None = None, shows_stderr: bool = False
) -> dict[str, Any]:
    """The JSON object that `qwartet ARGUMENTS --json` prints last. SettingError if it fails.

    With `shows_stderr` the user sees what goes wrong, and a result that has failures in it counts as one.
    """
    command = [sys.executable, "-m", "qwartet", *arguments, "--json"]
    good_codes = (0, 1) if shows_stderr else (0,)  # 1: the output says what failed
    name = f"qwartet {arguments[0]}"
    output = run_to_end(command, environment, shows_stderr=shows_stderr, good_codes=good_codes, name=name)
    try:
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise SettingError(f"{name} printed no result; run it by itself to see why") from None
    return found
