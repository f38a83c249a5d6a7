"""A command of ours in a process of its own, so that a measurement shares nothing with the one before."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from qwartet.bench.peers.alternation import run_to_end


def own_json(*arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object that `qwartet ARGUMENTS --json` prints last. SettingError if it fails."""
    output = run_to_end([sys.executable, "-m", "qwartet", *arguments, "--json"], environment)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found
