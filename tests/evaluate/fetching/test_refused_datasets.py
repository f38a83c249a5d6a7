"""Hubs that refuse, fail or send something else: one line each, nothing left; and a dataset's code never runs."""

from __future__ import annotations

import dataclasses
import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from datasets import Features, Image, List, Value

from qwartet.errors import DataError, DownloadError, DownloadWarning
from qwartet.evaluate.data import hub_tables
from qwartet.evaluate.data.hub_copies import HUB_COPIES
from qwartet.evaluate.tasks.registry import TaskOptions, make_tasks
from tests.evaluate.fetching.hub_datasets import MMLU_FEATURES, SCRIPT, hub_copy, made_up, parquet
from tests.evaluate.fetching.steps import GSM8K, assert_fails, fetch, publish
from tests.hub.fake_hub import FakeHub, git_sha1

ROW = {"question": "1 + 1?", "answer": "#### 2"}


# What the hub says


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [
        ("gated", ("gated dataset; accept its terms at ", "/datasets/openai/gsm8k, then set HF_TOKEN")),
        ("401", ("denies access (401); check HF_TOKEN",)),
        ("403", ("denies access (403); check HF_TOKEN",)),
        ("404", ("no such dataset on http://127.0.0.1",)),
        ("500", ("failed (status 500", "fix or unset HF_ENDPOINT", "by hand")),
        ("json", ("the hub's answer is not valid JSON; check HF_ENDPOINT",)),
        ("endless", ("the hub's answer is longer than",)),
        ("loop", ("redirects",)),
    ],
)
def test_a_hub_that_refuses_or_fails_is_one_line(
    hub: FakeHub, sums: dict[str, bytes], tmp_path: Path, fault: str, reasons: tuple[str, ...]
) -> None:
    hub.faults["listing"] = [fault] * 30
    hub.answer = b"<html>"
    with pytest.warns(DownloadWarning) if fault == "500" else nullcontext():
        assert_fails("gsm8k", tmp_path / "data", *reasons)


def test_an_unknown_dataset_or_commit_is_one_line(hub: FakeHub, sums: dict[str, bytes], tmp_path: Path) -> None:
    assert_fails("mmlu", tmp_path / "data", f"no such dataset on {hub.endpoint}; check HF_ENDPOINT, or put the pub")
    del hub.commits["datasets/openai/gsm8k"]
    assert_fails("gsm8k", tmp_path / "data", f"no commit {HUB_COPIES['gsm8k'].revision} on {hub.endpoint}; check HF_")


def test_a_hub_that_cannot_be_reached_is_one_line(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert_fails("gsm8k", tmp_path / "data", "could not reach 127.0.0.1:1 (set by HF_ENDPOINT)", "fix or unset HF_")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_nothing_is_asked(
    hub: FakeHub, sums: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # what the library makes of either variable
    assert_fails("gsm8k", tmp_path / "data", "may not be used offline; unset", variable, "by hand")
    assert hub.num_requests == 0


def test_the_token_is_sent(
    hub: FakeHub, sums: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch("gsm8k", tmp_path / "data")
    assert hub.tokens == {"Bearer hf_secret"}


# What the hub sends


def test_a_file_with_a_wrong_hash_is_downloaded_again_and_then_refused(
    hub: FakeHub, sums: dict[str, bytes], tmp_path: Path
) -> None:
    hub.faults[GSM8K] = ["flip"]
    fetch("gsm8k", tmp_path / "one")
    assert [name for name, _ in hub.downloads] == [GSM8K, GSM8K]
    hub.listed[GSM8K] = {"lfs": {"sha256": "0" * 64, "size": len(sums[GSM8K])}}
    assert_fails("gsm8k", tmp_path / "two", f"{GSM8K}: wrong hash twice, not the one that the hub lists; check HF_END")


def test_what_another_mirror_sent_for_the_same_commit_is_replaced(
    hub: FakeHub, sums: dict[str, bytes], tmp_path: Path
) -> None:
    original = sums[GSM8K]
    sums[GSM8K] = parquet([ROW])
    assert_fails("gsm8k", tmp_path / "data", "1 rows in test")
    sums[GSM8K] = original
    assert fetch("gsm8k", tmp_path / "data").num_rows == 1319


def test_a_file_without_a_listed_hash_is_used_with_a_warning(
    hub: FakeHub, sums: dict[str, bytes], tmp_path: Path
) -> None:
    hub.listed[GSM8K] = {"lfs": None, "blobId": None}
    with pytest.warns(DownloadWarning, match="the hub lists no hash for main/test-00000"):
        fetch("gsm8k", tmp_path / "data")


def test_a_file_that_git_holds_is_compared_too(hub: FakeHub, sums: dict[str, bytes], tmp_path: Path) -> None:
    hub.listed[GSM8K] = {"lfs": None, "blobId": git_sha1(sums[GSM8K])}
    fetch("gsm8k", tmp_path / "one")
    hub.listed[GSM8K] = {"lfs": None, "blobId": "0" * 40}
    assert_fails("gsm8k", tmp_path / "two", "wrong hash twice")


def test_an_unbelievable_listing_is_refused(hub: FakeHub, sums: dict[str, bytes], tmp_path: Path) -> None:
    hub.listed[GSM8K] = {"size": 2**30}
    assert_fails("gsm8k", tmp_path / "data", "1,073,741,824 bytes, unlike the published data")
    sums["main/test-../../x.parquet"] = b"x"
    assert_fails("gsm8k", tmp_path / "data", "do not trust this repository")
    assert hub.downloads == []


def test_a_dataset_laid_out_in_another_way_is_one_line(hub: FakeHub, tmp_path: Path) -> None:
    publish(hub, "gsm8k", {"data/test.parquet": b"x"})
    assert_fails("gsm8k", tmp_path / "data", "none of the expected files at 740312add88f")
    publish(hub, "ceval", {"law/val-00000-of-00001.parquet": b"x"})
    assert_fails(
        "ceval", tmp_path / "data", "no computer_network/dev-*.parquet at this revision; check HF_ENDPOINT, or"
    )
    files = hub_copy("leval", made_up("leval", tmp_path / "leval"))
    del files["LEval/Exam/codeU.jsonl"]
    publish(hub, "leval", files)
    assert_fails("leval", tmp_path / "data", "no LEval/Exam/codeU.jsonl at this revision")


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (parquet([ROW] * 1318), "1,318 rows in test, not the published 1,319"),
        (parquet([ROW] * 1320), "1,320 rows in test, not the published 1,319"),
        (parquet([{"question": "1?", "reply": "2"}]), "has no column 'answer', but question, reply"),
        (parquet([{"question": "1?", "answer": 2}]), "the column 'answer' of main/test- is not of the expected type"),
        (parquet([{"question": "1?", "answer": ["2"]}]), "is not of the expected type"),
        (parquet([{"question": "1?", "answer": {"text": "2"}}]), "is not of the expected type"),
        (parquet([ROW, ROW | {"answer": None}]), "a row has no answer"),
        (b"PAR1 no table PAR1", "its files cannot be read ("),
        (b"", "its files cannot be read ("),
    ],
)
def test_other_rows_are_refused(hub: FakeHub, tmp_path: Path, table: bytes, reason: str) -> None:
    publish(hub, "gsm8k", {GSM8K: table})
    assert_fails("gsm8k", tmp_path / "data", reason, "HF_ENDPOINT, or put the published files into --data by hand")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"subject": "../../up"}, "a row of the subject '../../up'"),
        ({"subject": "alchemy"}, "a row of the subject 'alchemy'"),
        ({"subject": "\x1b[2J"}, r"a row of the subject '\x1b[2J'"),
        ({"choices": ["1", "2", "3"]}, "with 3 choices"),
        ({"answer": 4}, "and the answer 4"),
        ({"answer": -1}, "and the answer -1"),
        ({"question": " "}, "not the published rows (dev/abstract_algebra_dev.csv, line 1: the question is empty)"),
    ],
)
def test_other_rows_of_mmlu_are_refused(hub: FakeHub, tmp_path: Path, wrong: dict[str, Any], reason: str) -> None:
    row = {"question": "1?", "subject": "abstract_algebra", "choices": list("1234"), "answer": 0} | wrong
    table = parquet([row], Features(MMLU_FEATURES | {"answer": Value("int64")}))
    publish(hub, "mmlu", {f"all/{split}-00000-of-00001.parquet": table for split in ("dev", "test")})
    assert_fails("mmlu", tmp_path / "data", reason)


def test_lines_that_a_task_could_not_read_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    files = hub_copy("leval", made_up("leval", tmp_path / "leval"))
    files["LEval/Exam/tpo.jsonl"] = b'{"input": 1}\n' * 15
    publish(hub, "leval", files)
    assert_fails("leval", tmp_path / "data", "not the published rows (tpo.jsonl, line 1: the field 'input' has the wr")


def test_a_full_disk_is_one_line_and_leaves_nothing(
    hub: FakeHub, sums: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any, target: Path) -> None:
        (target / "test.jsonl").write_text("half")
        raise OSError(28, "No space left on device", str(target / "test.jsonl"))

    monkeypatch.setitem(HUB_COPIES, "gsm8k", dataclasses.replace(HUB_COPIES["gsm8k"], write=full))
    (tmp_path / "data").mkdir()
    assert_fails("gsm8k", tmp_path / "data", f"no space left for it; free some in {tmp_path / 'data'}")


def test_a_place_that_cannot_be_written_is_one_line(sums: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DownloadError, match=r"data cannot be written \((File exists|Not a directory)\)"):
        fetch("gsm8k", tmp_path / "data")


# What must never happen


@pytest.mark.parametrize("name", ["mmlu", "gsm8k", "leval"])
def test_sec_23_the_code_of_a_dataset_is_neither_downloaded_nor_run(
    hub: FakeHub, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_TRUST_REMOTE_CODE", "1")
    files = hub_copy(name, made_up(name, tmp_path / "original"))
    own_name = f"{HUB_COPIES[name].dataset.rpartition('/')[2]}.py"
    publish(hub, name, files | {own_name: SCRIPT, "parquet.py": SCRIPT, "json.py": SCRIPT})
    fetch(name, tmp_path / "data")
    suffixes = {file.rpartition(".")[2] for file, _ in hub.downloads}
    assert suffixes == {"jsonl" if name == "leval" else "parquet"}
    assert not (tmp_path / "script-ran").exists()
    downloaded = {path.suffix for path in (tmp_path / "hf").rglob("*") if path.is_file() and "snapshots" in path.parts}
    assert ".py" not in downloaded and ".md" not in downloaded


def test_sec_23_a_script_where_the_table_should_be_is_not_run(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parquet.py").write_bytes(SCRIPT)
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "parquet.py").write_bytes(SCRIPT)
    publish(hub, "gsm8k", {GSM8K: SCRIPT})
    assert_fails("gsm8k", tmp_path / "data", "its files cannot be read")
    assert not (tmp_path / "script-ran").exists()


def loaded_later(rows: list[dict[str, Any]], features: Features) -> bytes:
    """A table whose cells name what is to be loaded; written without the library, which loads it to learn its size."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema), buffer)
    return buffer.getvalue()


def test_sec_23_columns_that_would_be_loaded_from_elsewhere_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    """A column of pictures may hold addresses and paths, which the library opens as it reads a row."""
    picture = {"path": f"{hub.endpoint}/picture", "bytes": None}
    table = loaded_later(
        [{"question": picture, "answer": "2"}], Features({"question": Image(), "answer": Value("string")})
    )
    publish(hub, "gsm8k", {GSM8K: table})
    assert_fails("gsm8k", tmp_path / "data", "the column 'question' of main/test- is not of the expected type")
    assert "/picture" not in hub.paths
    more = Features({"question": Value("string"), "answer": Value("string"), "picture": Image()})
    rows = [{"question": "1?", "answer": "#### 2", "picture": picture}] * 1319
    publish(hub, "gsm8k", {GSM8K: loaded_later(rows, more)})
    fetch("gsm8k", tmp_path / "data")  # a column that is not needed is not read
    assert "/picture" not in hub.paths
    choices = Features(MMLU_FEATURES | {"choices": List(Image())})
    row = {"question": "1?", "subject": "law", "choices": [{"path": "/etc/passwd", "bytes": None}], "answer": 0}
    publish(hub, "mmlu", {f"all/{split}-0.parquet": loaded_later([row], choices) for split in ("dev", "test")})
    assert_fails("mmlu", tmp_path / "data", "the column 'choices' of all/dev- is not of the expected type")


@pytest.mark.parametrize(("limit", "value"), [("MAX_ROWS", 1000), ("MAX_CHARS", 2**20)])
def test_sec_23_a_table_that_unpacks_to_far_more_is_stopped(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(hub_tables, limit, value)
    table = parquet([{"question": "x" * 10_000, "answer": "#### 1"}] * 1319)
    assert len(table) < 100_000
    publish(hub, "gsm8k", {GSM8K: table})
    assert_fails("gsm8k", tmp_path / "data", "main/test- is larger than any published set")


def test_a_name_of_the_cache_is_no_pattern(
    hub: FakeHub, sums: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "my [cache] * ?"))
    fetch("gsm8k", tmp_path / "my [data] *")
    assert (tmp_path / "my [data] *" / "gsm8k" / "test.jsonl").is_file()


def test_reading_needs_no_network_once_the_files_are_here(
    hub: FakeHub, sums: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("gsm8k", tmp_path / "data")
    num_requests = hub.num_requests
    make_tasks(["all"], TaskOptions(tmp_path / "data", is_loaded=False))
    with pytest.raises(DataError):
        make_tasks(["mmlu"], TaskOptions(tmp_path / "data", is_loaded=False))
    assert hub.num_requests == num_requests
