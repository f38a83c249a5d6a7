"""Benchmarks fetched from a hub: the published files come back, once or on request."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.data import fetching
from qwartet.evaluate.data.fetching import SOURCE_FILE, check_names, fetch_benchmark
from qwartet.evaluate.data.hub_copies import HUB_COPIES
from qwartet.evaluate.tasks.registry import TaskOptions, make_tasks
from tests.evaluate.fetching.hub_datasets import hub_copy, made_up, parquet
from tests.evaluate.fetching.steps import GSM8K, assert_fails, fetch, publish
from tests.evaluate.published_data import published
from tests.hub.fake_hub import FakeHub, sha256


def content_of(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def assert_same_files(name: str, fetched: Path, original: Path) -> None:
    names = [file for split in HUB_COPIES[name].splits for file in split.files]
    assert {file: content_of(fetched / file) for file in names} == {file: content_of(original / file) for file in names}
    files = sorted(path.relative_to(fetched).as_posix() for path in fetched.rglob("*") if path.is_file())
    assert files == sorted([*names, SOURCE_FILE])


# What comes back


@pytest.mark.parametrize("name", ["mmlu", "gsm8k", "humaneval"])
def test_the_published_files_come_back_byte_for_byte(hub: FakeHub, tmp_path: Path, name: str) -> None:
    original = published(name)
    publish(hub, name, hub_copy(name, original))
    fetched = fetch(name, tmp_path / "data")
    assert fetched.num_rows == sum(split.num_rows or 0 for split in HUB_COPIES[name].splits)
    assert_same_files(name, tmp_path / "data" / name, original)


@pytest.mark.parametrize("name", HUB_COPIES)
def test_made_up_rows_come_back_byte_for_byte(hub: FakeHub, tmp_path: Path, name: str) -> None:
    original = made_up(name, tmp_path / "original")
    publish(hub, name, hub_copy(name, original))
    steps: list[tuple[int, int]] = []
    fetched = fetch_benchmark(name, tmp_path / "data", lambda *step: steps.append(step), overwrite=False)
    assert_same_files(name, fetched.directory, original)
    assert sum(count for count, _ in steps) == steps[0][1] and {total for _, total in steps} == {steps[0][1]}


@pytest.mark.parametrize("name", ["gsm8k", "leval"])
def test_a_task_asks_the_same_from_fetched_files(hub: FakeHub, tmp_path: Path, name: str) -> None:
    made_up(name, tmp_path / "original" / name)
    publish(hub, name, hub_copy(name, tmp_path / "original" / name))
    fetch(name, tmp_path / "data")
    questions = []
    for data in (tmp_path / "original", tmp_path / "data"):
        [task], _ = make_tasks([name], TaskOptions(data, is_loaded=False))
        questions.append(list(task.questions()))
    assert questions[0] == questions[1] and len(questions[0]) > 100


def test_the_source_is_recorded(hub: FakeHub, sums: dict[str, bytes], tmp_path: Path) -> None:
    fetched = fetch("gsm8k", tmp_path / "data")
    source = json.loads((fetched.directory / SOURCE_FILE).read_text())
    assert source["dataset"] == "openai/gsm8k" and source["licence"] == "MIT" and source["endpoint"] == hub.endpoint
    assert source["commit"] == fetched.commit == HUB_COPIES["gsm8k"].revision
    assert source["rows"] == {"test": 1319}
    assert source["sha256"] == {"test.jsonl": sha256((fetched.directory / "test.jsonl").read_bytes())}
    assert len(source["date"]) == 10


def test_a_branch_is_resolved_to_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    publish(hub, "leval", hub_copy("leval", made_up("leval", tmp_path / "original")))
    assert fetch("leval", tmp_path / "data").commit == hub.commit


def test_every_revision_but_one_is_a_commit() -> None:
    branches = {name for name, copy in HUB_COPIES.items() if not (len(copy.revision) == 40 and copy.revision.isalnum())}
    assert branches == {"leval"}


def test_the_published_counts() -> None:
    counts = {name: {split.name: split.num_rows for split in copy.splits} for name, copy in HUB_COPIES.items()}
    assert counts["mmlu"] == {"dev": 285, "test": 14_042} and counts["gsm8k"] == {"test": 1319}
    assert counts["ceval"] == {"dev": 260, "val": 1346, "test": 12_342} and counts["humaneval"] == {"test": 164}
    num_files = {name: sum(len(split.files) for split in copy.splits) for name, copy in HUB_COPIES.items()}
    assert num_files == {"mmlu": 2 * 57, "ceval": 3 * 52, "gsm8k": 1, "humaneval": 1, "leval": 6}


# What is there


def test_data_that_is_there_is_kept(hub: FakeHub, sums: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text("own")
    assert fetch("gsm8k", tmp_path / "data").was_there and hub.num_requests == 0
    assert (tmp_path / "data" / "gsm8k" / "test.jsonl").read_text() == "own"


def test_overwrite_replaces_the_data_and_leaves_other_files(hub: FakeHub, tmp_path: Path) -> None:
    original = made_up("mmlu", tmp_path / "original")
    publish(hub, "mmlu", hub_copy("mmlu", original))
    own = tmp_path / "data" / "mmlu"
    (own / "test").mkdir(parents=True)
    (own / "test" / "stale.csv").write_text("stale")
    (own / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"mmlu: has test but not dev; pass --overwrite"):
        fetch("mmlu", tmp_path / "data")
    fetch("mmlu", tmp_path / "data", overwrite=True)
    assert (own / "notes.txt").read_text() == "mine"
    (own / "notes.txt").unlink()
    assert_same_files("mmlu", own, original)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mmlu"]


def test_the_data_joins_other_files_of_its_folder(sums: dict[str, bytes], tmp_path: Path) -> None:
    """The worked examples of GSM8K are the user's own download."""
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k" / "gsm8k_prompt.txt").write_text("Question: 1?\n#### 1\n\n")
    assert not fetch("gsm8k", tmp_path / "data").was_there
    [task], _ = make_tasks(["gsm8k"], TaskOptions(tmp_path / "data", shots=1, is_loaded=False))
    assert len(task.questions()) == 1319


def test_a_failure_with_overwrite_leaves_what_was_there(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text("own")
    publish(hub, "gsm8k", {GSM8K: parquet([{"question": "1?", "answer": "#### 1"}])})
    assert_fails("gsm8k", tmp_path / "data", "1 rows in test, not the published 1,319", kept=True)
    assert (tmp_path / "data" / "gsm8k" / "test.jsonl").read_text() == "own"


def test_an_interruption_leaves_nothing(
    sums: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "_write_source", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("gsm8k", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_progress_bars_are_as_before(sums: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fetch("gsm8k", tmp_path / "data")
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


# Names


def test_names() -> None:
    assert check_names(["gsm8k", " mmlu ", "", "gsm8k"]) == ["gsm8k", "mmlu"]
    assert check_names(["all"]) == list(HUB_COPIES) and check_names(["ceval-test", "ceval"]) == ["ceval"]
    for name in ("tools", "needle", "perplexity", "../x"):
        with pytest.raises(SettingError, match=r"cannot fetch .* choose from ceval, mmlu"):
            check_names([name])
    with pytest.raises(SettingError, match="no task named; choose from"):
        check_names([""])


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"install it: pip install 'qwartet\[data\]'"):
        check_names(["mmlu"])
