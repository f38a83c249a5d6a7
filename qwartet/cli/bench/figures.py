"""What benchmarks of an engine or a server print: progress on stderr, figures on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from qwartet.cli.language.catalogue import translate
from qwartet.cli.model_lines import kernels_text
from qwartet.cli.terminal import json_line, one_line


def log(text: str) -> None:
    """Prints progress."""
    print(translate(text), file=sys.stderr)


def print_figures(report: dict[str, Any], as_json: bool, remarks: Sequence[str] = ()) -> None:
    """Prints the figures of a report, a line per round for a comparison; then, on request, all of it as JSON."""
    for line in [*_figure_lines(report), *remarks]:
        print(one_line(line))
    if as_json:
        print(json_line(report))


def kernels_line(kernels: dict[str, str]) -> str:
    """Which kernel served which operation."""
    return f"kernels: {kernels_text(kernels)}"


def _figure_lines(report: dict[str, Any]) -> list[str]:
    lines = [kernels_line(report["kernels"])] if "kernels" in report else []
    for number, one in enumerate(report.get("rounds", ()), start=1):
        lines.append(f"round {number}   " + "   ".join(f"{name} {value:,.3f}" for name, value in one.items()))
    for name, value in report.items():
        if isinstance(value, dict) and name.endswith("_ms"):
            lines.append(f"{name:<20}" + "  ".join(f"{share} {number:,.1f}" for share, number in value.items()))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            lines.append(f"{name:<20}{value:,}")
    return lines
