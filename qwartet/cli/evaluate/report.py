"""Results of evaluations: as lines on the terminal, and as a file beside the runs."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwartet import __version__
from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.language.columns import padded, right_aligned
from qwartet.files import atomic_write

if TYPE_CHECKING:
    from qwartet.evaluate.compare import RunComparison
    from qwartet.evaluate.data.archives import Unpacked
    from qwartet.evaluate.data.fetching import Fetched
    from qwartet.evaluate.question import Figure
    from qwartet.evaluate.run import TaskResult

RESULTS_FILE = "results.json"
HARNESS_FILE = "lm_eval.json"
NUM_SHOWN = 12  # figures of a task; the others are in the file


def unpacked_line(unpacked: Unpacked) -> str:
    """What was unpacked, and where it is."""
    return f"unpacked {unpacked.archive}: {unpacked.num_files:,} files in {unpacked.directory}"


def fetched_line(fetched: Fetched) -> str:
    """What was fetched from where, and where it is; or that it was there."""
    if fetched.was_there:
        return f"{fetched.name}: {fetched.directory} already has it; pass --overwrite to replace it"
    rows = f"{fetched.num_rows:,} rows of {fetched.dataset}, commit {fetched.commit[:7]}"
    return f"{fetched.name}: {rows}, written to {fetched.directory}"


def figure_lines(result: TaskResult) -> Iterator[str]:
    """A task's figures, the main one first, in the user's language."""
    errors = f", {result.num_errors} without an answer" if result.num_errors else ""
    yield translate(f"{result.task}: {result.num_questions:,} questions{errors}; {result.file}")
    for figure in result.figures[:NUM_SHOWN]:
        yield f"  {padded(translate(label(figure.name)), 28)} {translate(_value(figure))}"
    if len(result.figures) > NUM_SHOWN:
        yield translate(f"  and {len(result.figures) - NUM_SHOWN} more in {RESULTS_FILE}")


def _value(figure: Figure) -> str:
    interval = "" if figure.low is None or figure.high is None else f"  ({figure.low:.1f} to {figure.high:.1f})"
    return f"{figure.value:6.2f} {label(figure.unit)}{interval}  of {figure.count:,}"


def write_results(directory: Path, answerer: dict[str, Any], results: Sequence[TaskResult]) -> dict[str, Any]:
    """Adds the results to DIRECTORY/results.json, tasks of earlier runs kept; returns what the file then holds."""
    path = directory / RESULTS_FILE
    earlier: dict[str, Any] = {}
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            earlier = found["tasks"] if found.get("answerer") == answerer else {}
        except (ValueError, KeyError, AttributeError, OSError):
            earlier = {}
    report = {
        "answerer": answerer,
        "environment": {"qwartet": __version__, "python": platform.python_version(), "platform": platform.platform()},
        "date": datetime.now(UTC).date().isoformat(),
        "tasks": {**earlier, **{result.task: result.to_dict() for result in results}},
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return report


def comparison_lines(comparison: RunComparison) -> Iterator[str]:
    """A table of two runs in the user's language: both scores, their difference with its interval, and the p-value."""
    yield f"A: {comparison.first}"
    yield f"B: {comparison.second}"
    only_a, only_b = (right_aligned(label(heading), 8) for heading in ("only A", "only B"))
    yield (
        f"{padded(label('task'), 14)}{right_aligned(label('items'), 7)}{'A':>8}{'B':>8}{'B - A':>8}"
        f"  {'95 %':<16}{only_a}{only_b}  p"
    )
    for name, one in comparison.tasks.items():
        interval = f"{100 * one.low:+.1f} {label('to')} {100 * one.high:+.1f}"
        yield (
            f"{name:<14}{one.count:>7,}{100 * one.first:>8.2f}{100 * one.second:>8.2f}"
            f"{100 * (one.second - one.first):>+8.2f}  {padded(interval, 16)}"
            f"{one.num_only_first:>8}{one.num_only_second:>8}  {one.p_value:.3f}"
        )
    for name, reason in comparison.left_out.items():
        yield translate(f"{name}: not compared; {reason}")


def write_harness_results(directory: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Keeps what lm-eval found in DIRECTORY/lm_eval.json, its samples apart; returns the results of each task."""
    directory.mkdir(parents=True, exist_ok=True)
    for task, samples in (found.get("samples") or {}).items():
        with atomic_write(directory / f"lm_eval_{task}.samples.json") as temporary:
            temporary.write_text(json.dumps(samples, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    report: dict[str, Any] = {key: found.get(key) for key in ("results", "versions", "n-shot", "n-samples")}
    with atomic_write(directory / HARNESS_FILE) as temporary:
        temporary.write_text(json.dumps(report, ensure_ascii=False, indent=1, default=str) + "\n", encoding="utf-8")
    return report


def harness_lines(report: dict[str, Any]) -> Iterator[str]:
    """The metrics of each lm-eval task."""
    for task, metrics in report["results"].items():
        for name, value in metrics.items():
            if isinstance(value, float) and "stderr" not in name:
                yield f"{task:<32} {name.removesuffix(',none'):<24} {value:.4f}"
