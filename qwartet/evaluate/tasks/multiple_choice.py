"""Multiple-choice questions with four options: what C-Eval and MMLU have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwartet.errors import DataError
from qwartet.evaluate.data_files import csv_rows
from qwartet.evaluate.extraction.choices import LETTERS
from qwartet.evaluate.question import Answer, Grade

COLUMNS = ("question", *LETTERS)


@dataclass(frozen=True)
class Item:
    """A row of a data file."""

    question: str
    options: dict[str, str]  # by letter
    answer: str | None  # a letter; None in files without answers
    number: str  # the row's own id, or its place in the file


def read_items(path: Path, *, has_header: bool, has_answers: bool) -> list[Item]:
    """The rows of a subject's CSV file; DataError, with the line, for one that is not a question with four options."""
    columns = (*COLUMNS, "answer") if has_answers else COLUMNS
    items: list[Item] = []
    for line, row in csv_rows(path, columns, has_header=has_header, optional=("id",)):
        if not row["question"].strip():
            raise DataError(path, "the question is empty", line=line, hint="fix the row")
        answer = row["answer"].strip() if has_answers else None
        if answer is not None and answer not in LETTERS:
            reason = f"the answer is {answer!r:.40}; it must be A, B, C or D"
            raise DataError(path, reason, line=line, hint="fix the row")
        options = {letter: row[letter] for letter in LETTERS}
        items.append(Item(row["question"], options, answer, row.get("id", str(len(items)))))
    return items


def shots_of(items: Sequence[Item], shots: int, path: Path) -> Sequence[Item]:
    """The first `shots` worked examples of a file. DataError where it has fewer."""
    if len(items) < shots:
        raise DataError(path, f"{len(items)} examples, but --shots is {shots}", hint="use fewer shots")
    return items[:shots]


def most_probable(answer: Answer, reference: str) -> Grade:
    """The letter with the largest log-probability."""
    found = LETTERS[max(range(len(LETTERS)), key=lambda index: answer.logprobs[index])]
    return Grade(found, float(found == reference))


def categories(benchmark: str) -> dict[str, list[str]]:
    """The subjects of each category of a benchmark, in the order of the published script."""
    text = Path(__file__).with_name("subjects.json").read_text(encoding="utf-8")
    found: dict[str, list[str]] = json.loads(text)[benchmark]
    return found


def csv_files(*folders: Path | None) -> Iterator[Path]:
    """The data files of some folders, in the order of their names."""
    for folder in folders:
        yield from sorted(folder.glob("*.csv")) if folder is not None else ()
