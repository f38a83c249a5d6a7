"""Where the hub has each benchmark, and how a copy there becomes the files as published.

The hub has MMLU, C-Eval, GSM8K and HumanEval as tables of the published rows, and L-Eval's own files. Commits are fixed
where the dataset is no longer worked on: the same rows for everyone.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwartet.errors import DownloadError
from qwartet.evaluate.data.files import json_rows
from qwartet.evaluate.data.hub_tables import CHECK_MIRROR, HubFiles, Kind
from qwartet.evaluate.extraction.choices import LETTERS
from qwartet.evaluate.tasks import ceval, gsm8k, humaneval, leval, mmlu
from qwartet.evaluate.tasks.multiple_choice import read_items

_PARQUET = r"-[\w.-]{1,80}\.parquet"
_CEVAL_COLUMNS = ("id", "question", *LETTERS)
_HUMANEVAL_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")  # in the published order


@dataclass(frozen=True)
class Split:
    """Files that belong together, and their rows as published."""

    name: str
    files: tuple[str, ...]
    num_rows: int | None  # None where no source states it


@dataclass(frozen=True)
class HubCopy:
    """A benchmark on the hub; the files of `splits` are made of the hub's `wanted` ones."""

    dataset: str
    revision: str
    licence: str  # of the data
    wanted: re.Pattern[str]
    splits: tuple[Split, ...]
    write: Callable[[HubFiles, Path], None]
    count: Callable[[Path], int]  # rows of a file, read as its task reads it; DataError

    @property
    def entries(self) -> list[str]:
        """The files and folders that the benchmark's own folder has."""
        return sorted({file.partition("/")[0] for split in self.splits for file in split.files})


def _write_mmlu(hub: HubFiles, target: Path) -> None:
    for split in ("dev", "test"):
        rows: dict[str, list[list[str]]] = {subject: [] for subject in mmlu.SUBJECTS}
        columns: dict[str, Kind] = {"question": "text", "subject": "text", "choices": "texts", "answer": "number"}
        for row in hub.rows(f"all/{split}-", columns):
            subject, choices, answer = row["subject"], row["choices"], row["answer"]
            if subject not in rows or len(choices) != len(LETTERS) or not 0 <= answer < len(LETTERS):
                found = f"a row of the subject {subject!r:.60} with {len(choices)} choices and the answer {answer}"
                raise DownloadError(f"{hub.dataset}: {found}; {CHECK_MIRROR}")
            rows[subject].append([row["question"], *choices, LETTERS[answer]])
        for subject, own in rows.items():
            _write_csv(target / split / f"{subject}_{split}.csv", own)


def _write_ceval(hub: HubFiles, target: Path) -> None:
    more = {"dev": ("answer", "explanation"), "val": ("answer",), "test": ()}  # as the published files have them
    for subject in ceval.SUBJECTS:
        for split, others in more.items():
            names = (*_CEVAL_COLUMNS, *others)
            columns: dict[str, Kind] = {**dict.fromkeys(names, "text"), "id": "number"}
            if "explanation" in names:
                columns["explanation"] = "optional text"
            rows = hub.rows(f"{subject}/{split}-", columns)
            table = [names, *([str(row[name]) for name in names] for row in rows)]
            _write_csv(target / split / f"{subject}_{split}.csv", table)


def _write_gsm8k(hub: HubFiles, target: Path) -> None:
    rows = hub.rows("main/test-", dict.fromkeys(gsm8k.FIELDS, "text"))
    (target / "test.jsonl").write_bytes(_json_lines(rows, tuple(gsm8k.FIELDS)))


def _write_humaneval(hub: HubFiles, target: Path) -> None:
    rows = hub.rows("openai_humaneval/test-", dict.fromkeys(_HUMANEVAL_FIELDS, "text"))
    packed = gzip.compress(_json_lines(rows, _HUMANEVAL_FIELDS), mtime=0)
    (target / "HumanEval.jsonl.gz").write_bytes(packed)


def _write_leval(hub: HubFiles, target: Path) -> None:
    for task in leval.TASKS:
        name = f"LEval/Exam/{task}.jsonl"
        if name not in hub.paths:
            raise DownloadError(f"{hub.dataset}: no {name} at this revision; {CHECK_MIRROR}")
        shutil.copyfile(hub.paths[name], target / f"{task}.jsonl")


def _write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _json_lines(rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> bytes:
    return "".join(json.dumps({name: row[name] for name in fields}) + "\n" for row in rows).encode("ascii")


def _csv_files(split: str, subjects: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{split}/{subject}_{split}.csv" for subject in subjects)


_LEVAL_ROWS = {"coursera": 15, "gsm100": 100, "quality": 15, "tpo": 15, "sci_fi": 7}

HUB_COPIES: dict[str, HubCopy] = {
    "ceval": HubCopy(
        "ceval/ceval-exam",
        "617524a00b307ff6f9933702f724131fe12ca7ce",
        "CC BY-NC-SA 4.0",
        re.compile(f"({'|'.join(ceval.SUBJECTS)})/(dev|val|test){_PARQUET}", re.ASCII),
        tuple(
            Split(split, _csv_files(split, ceval.SUBJECTS), num_rows)
            for split, num_rows in (("dev", 260), ("val", 1346), ("test", 12_342))
        ),
        _write_ceval,
        lambda path: len(read_items(path, has_header=True, has_answers=not path.name.endswith("_test.csv"))),
    ),
    "mmlu": HubCopy(
        "cais/mmlu",
        "c30699e8356da336a370243923dbaf21066bb9fe",
        "MIT",
        re.compile(f"all/(dev|test){_PARQUET}", re.ASCII),
        (
            Split("dev", _csv_files("dev", mmlu.SUBJECTS), 285),
            Split("test", _csv_files("test", mmlu.SUBJECTS), 14_042),
        ),
        _write_mmlu,
        lambda path: len(read_items(path, has_header=False, has_answers=True)),
    ),
    "gsm8k": HubCopy(
        "openai/gsm8k",
        "740312add88f781978c0658806c59bc2815b9866",
        "MIT",
        re.compile(f"main/test{_PARQUET}", re.ASCII),
        (Split("test", ("test.jsonl",), 1319),),
        _write_gsm8k,
        lambda path: sum(1 for _ in json_rows(path, gsm8k.FIELDS)),
    ),
    "humaneval": HubCopy(
        "openai/openai_humaneval",
        "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
        "MIT",
        re.compile(f"openai_humaneval/test{_PARQUET}", re.ASCII),
        (Split("test", ("HumanEval.jsonl.gz",), 164),),
        _write_humaneval,
        lambda path: sum(1 for _ in json_rows(path, humaneval.FIELDS)),
    ),
    "leval": HubCopy(
        "L4NLP/LEval",
        "main",
        "GPL-3.0; the documents have licences of their own",
        re.compile(f"LEval/Exam/({'|'.join(leval.TASKS)})\\.jsonl"),
        tuple(Split(task, (f"{task}.jsonl",), _LEVAL_ROWS.get(task)) for task in leval.TASKS),
        _write_leval,
        lambda path: sum(1 for _ in json_rows(path, leval.FIELDS)),
    ),
}
