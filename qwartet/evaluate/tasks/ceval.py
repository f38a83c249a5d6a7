"""C-Eval: Chinese multiple-choice questions of 52 subjects, data of the published archive (dev/, val/, test/).

Without shots a chat model answers in its own words (eval/evaluate_chat_ceval.py of the Qwen repository); with shots the
most probable letter after worked examples counts (eval/evaluate_ceval.py). Scores are averaged over subjects. The test
split has no answers: its run writes the submission file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from qwartet.evaluate.data_files import find_folder, sha256_of_all
from qwartet.evaluate.extraction.choices import LETTERS, chinese_choice
from qwartet.evaluate.figures import group_average
from qwartet.evaluate.question import Answer, Chat, Choose, Figure, Grade, Question, Record
from qwartet.evaluate.tasks.multiple_choice import Item, categories, csv_files, most_probable, read_items, shots_of
from qwartet.tokenizer.chatml import Message

CATEGORIES = categories("ceval")
SUBJECTS = tuple(subject for name, subjects in CATEGORIES.items() if name != "Hard" for subject in subjects)
SUBMISSION_FILE = "ceval_submission.json"


class Ceval:
    """The val split, or the test split; `shots` worked examples come from the dev split."""

    def __init__(self, directory: Path, shots: int, split: Literal["val", "test"] = "val") -> None:
        """DataError where a subject's file is missing."""
        self.name = "ceval" if split == "val" else "ceval-test"
        self._shots, self._split = shots, split
        self._items = find_folder(directory, split, [f"{subject}_{split}.csv" for subject in SUBJECTS])
        self._dev = find_folder(directory, "dev", [f"{subject}_dev.csv" for subject in SUBJECTS]) if shots else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"shots": self._shots, "sha256": sha256_of_all(csv_files(self._items, self._dev))}

    def questions(self) -> Sequence[Question]:
        found = []
        for subject in SUBJECTS:
            examples = ""
            if self._dev is not None:
                path = self._dev / f"{subject}_dev.csv"
                items = shots_of(read_items(path, has_header=True, has_answers=True), self._shots, path)
                examples = "".join(_example(item, f"{item.answer}\n\n") for item in items)
            path = self._items / f"{subject}_{self._split}.csv"
            for item in read_items(path, has_header=True, has_answers=self._split == "val"):
                if self._dev is not None:
                    asked: Chat | Choose = Choose(examples + _example(item, ""), LETTERS)
                else:
                    asked = Chat((Message("user", _chat_question(item)),))
                reference = {"answer": item.answer, "question": item.question, "options": item.options}
                found.append(Question(f"{subject}/{item.number}", subject, asked, reference, examples and subject))
        return found

    def grade(self, question: Question, answer: Answer) -> Grade:
        reference = question.reference
        if isinstance(question.request, Choose):
            return most_probable(answer, reference["answer"])
        found = chinese_choice(answer.text, reference["question"], reference["options"])
        return Grade(found, float(found == reference["answer"]))

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        if self._split == "test":
            answered = sum(record.extracted is not None for record in records)
            return [Figure("answered", 100 * answered / len(records), len(records))]
        figures = [group_average("accuracy", records)]
        for name, subjects in CATEGORIES.items():
            if members := [record for record in records if record.group in subjects]:
                figures.append(group_average(name, members))
        return figures

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        """Of the test split: the answers in the form that the benchmark's site takes."""
        if self._split == "val":
            return {}
        answers: dict[str, dict[str, str]] = {subject: {} for subject in SUBJECTS}
        for record in records:
            answers[record.group][record.id.rpartition("/")[2]] = record.extracted or ""
        return {SUBMISSION_FILE: (json.dumps(answers, indent=1) + "\n").encode()}


def _example(item: Item, answer: str) -> str:
    options = "".join(f"\n{letter}. {text}" for letter, text in item.options.items())
    return f"问题：{item.question}{options}\n答案：{answer}"


def _chat_question(item: Item) -> str:
    return f"{item.question}\n\n" + "".join(f"{letter}. {text}\n" for letter, text in item.options.items())
