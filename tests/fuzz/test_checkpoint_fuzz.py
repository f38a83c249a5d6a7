"""Thousands of damaged checkpoints: the same logits or a CheckpointError, and nothing else, within memory and time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.mutations import MUTATIONS
from tests.golden_data import REPOSITORY


def run_child(work: Path, first_seed: int, count: int) -> list[dict]:
    """Outcomes of the cases; fails with the seed of the case that ended the process."""
    command = [sys.executable, "-m", "tests.fuzz.child", str(work), str(first_seed), str(count)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60 + count)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 0, f"ended with {result.returncode} after {lines[-1:]}\n{result.stderr[-3000:]}"
    return [line | {"seed": begun["begins"]} for begun, line in zip(lines[::2], lines[1::2], strict=True)]


def check(outcomes: list[dict]) -> None:
    assert not [one for one in outcomes if not one["is_allowed"]]
    counts = Counter(one["outcome"] for one in outcomes)
    assert counts["refused"] > len(outcomes) / 4, f"the damage is too gentle to test anything: {counts}"
    assert counts["same"] > len(outcomes) / 20, f"the damage is too coarse to test anything: {counts}"
    met = {kind for one in outcomes for kind in one["kinds"].split("+")}
    assert met == {mutation.__name__ for mutation in MUTATIONS}


def test_200_damaged_checkpoints_are_refused_or_give_the_same_logits(tmp_path: Path) -> None:
    check(run_child(tmp_path, first_seed=0, count=200))


@pytest.mark.slow
@pytest.mark.parametrize("first_seed", [1000, 2000, 3000, 4000])
def test_2000_damaged_checkpoints_are_refused_or_give_the_same_logits(tmp_path: Path, first_seed: int) -> None:
    check(run_child(tmp_path, first_seed, count=500))
