"""Multiple-choice questions with four options, by subject: what C-Eval and MMLU have in common.

Without shots a chat model answers in its own words, and its letter is extracted; with shots the most probable letter
after worked examples counts.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from qwartet.errors import DataError
from qwartet.evaluate.data.files import csv_rows, find_folder, sha256_of_all
from qwartet.evaluate.extraction.choices import LETTERS
from qwartet.evaluate.question import Answer, Chat, Choose, Grade, Question
from qwartet.tokenizer.chatml import Message

COLUMNS = ("question", *LETTERS)


@dataclass(frozen=True)
class Item:
    """A row of a data file."""

    question: str
    options: dict[str, str]  # by letter
    answer: str | None  # a letter; None in files without answers
    number: str  # the row's own id, or its place in the file


class MultipleChoice(ABC):
    """A split of a benchmark; `shots` worked examples of each subject come from its dev split."""

    subjects: ClassVar[tuple[str, ...]]
    has_header: ClassVar[bool]  # of the data files
    choices: ClassVar[tuple[str, ...]]  # the letters as they follow a prompt with shots
    max_length: ClassVar[int | None] = None  # tokens of such a prompt, whose beginning is dropped

    def __init__(self, directory: Path, shots: int, split: str) -> None:
        """DataError where a subject's file is missing."""
        self._shots, self._split = shots, split
        self._items = self._folder(directory, split)
        self._dev = self._folder(directory, "dev") if shots else None

    def _folder(self, directory: Path, split: str) -> Path:
        return find_folder(directory, split, [f"{subject}_{split}.csv" for subject in self.subjects])

    @property
    def has_answers(self) -> bool:
        """Whether the split comes with the right letters."""
        return True

    @abstractmethod
    def preamble(self, subject: str) -> str:
        """What stands before the worked examples."""

    @abstractmethod
    def example(self, item: Item, answer: str | None) -> str:
        """A worked example, or for None the question to be answered."""

    @abstractmethod
    def chat_question(self, item: Item) -> str:
        """What a chat model is asked."""

    @abstractmethod
    def extract(self, answer: str, reference: dict[str, Any]) -> str:
        """The letter that a chat model's answer chooses."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"shots": self._shots, "sha256": sha256_of_all(csv_files(self._items, self._dev))}

    def questions(self) -> Sequence[Question]:
        found = []
        for subject in self.subjects:
            examples = "" if self._dev is None else self._examples(subject, self._dev / f"{subject}_dev.csv")
            path = self._items / f"{subject}_{self._split}.csv"
            for item in read_items(path, has_header=self.has_header, has_answers=self.has_answers):
                if self._dev is not None:
                    prompt = examples + self.example(item, None)
                    asked: Chat | Choose = Choose(prompt, self.choices, self.max_length)
                else:
                    asked = Chat((Message("user", self.chat_question(item)),))
                reference = {"answer": item.answer, "question": item.question, "options": item.options}
                found.append(Question(f"{subject}/{item.number}", subject, asked, reference, examples))
        return found

    def _examples(self, subject: str, path: Path) -> str:
        items = read_items(path, has_header=self.has_header, has_answers=True)
        if len(items) < self._shots:
            reason = f"{len(items)} examples, but --shots is {self._shots}"
            raise DataError(path, reason, hint="use fewer shots")
        worked = (self.example(item, item.answer) for item in items[: self._shots])
        return self.preamble(subject) + "".join(worked)

    def grade(self, question: Question, answer: Answer) -> Grade:
        if isinstance(question.request, Choose):
            found = LETTERS[max(range(len(LETTERS)), key=lambda index: answer.logprobs[index])]
        else:
            found = self.extract(answer.text, question.reference)
        return Grade(found, float(found == question.reference["answer"]))


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


def categories(benchmark: str) -> dict[str, list[str]]:
    """The subjects of each category of a benchmark, in the order of the published script."""
    text = Path(__file__).with_name("subjects.json").read_text(encoding="utf-8")
    found: dict[str, list[str]] = json.loads(text)[benchmark]
    return found


def csv_files(*folders: Path | None) -> Iterator[Path]:
    """The data files of some folders, in the order of their names."""
    for folder in folders:
        yield from sorted(folder.glob("*.csv")) if folder is not None else ()
