"""Two runs question by question: whether one model is better than another, or its Int4 worse than its BF16."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwartet.errors import SettingError
from qwartet.evaluate.figures import score_of
from qwartet.evaluate.run_file import read_run
from qwartet.evaluate.statistics import PairedDifference, paired_difference


@dataclass(frozen=True)
class RunComparison:
    """Tasks that both runs have, and those that cannot be compared."""

    first: str
    second: str
    tasks: dict[str, PairedDifference]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def compare_runs(first: Path, second: Path) -> RunComparison:
    """Compares two directories that `qwartet evaluate` wrote.

    Questions that one run alone asked are left out. SettingError where there is nothing to compare, or where two runs
    of a task differ in its settings (shots, data).
    """
    found: list[dict[str, Path]] = []
    for directory in (first, second):
        files = {path.stem: path for path in sorted(directory.glob("*.jsonl"))}
        if not files:
            raise SettingError(
                f"{directory} contains no runs (TASK.jsonl); pass directories written by qwartet evaluate --out"
            )
        found.append(files)
    tasks: dict[str, PairedDifference] = {}
    left_out: dict[str, str] = {}
    for name in dict.fromkeys((*found[0], *found[1])):
        if name not in found[0] or name not in found[1]:
            left_out[name] = f"only in {first if name in found[0] else second}"
            continue
        (run, records), (other, others) = read_run(found[0][name]), read_run(found[1][name])
        if run.get("settings") != other.get("settings"):
            raise SettingError(f"{name}: the runs differ in shots or data; run both with the same settings")
        scores = {record.id: score_of(record) for record in others}
        pairs = [(score_of(record), scores[record.id]) for record in records if record.id in scores]
        if not pairs:
            left_out[name] = "no questions in common"
            continue
        tasks[name] = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    if not tasks:
        raise SettingError(f"{first} and {second} have no questions in common; evaluate both on the same tasks")
    return RunComparison(str(first), str(second), tasks, left_out)
