"""MMLU: 14,042 English multiple-choice questions of 57 subjects, data of the published archive (dev/, test/).

Without shots a chat model answers in its own words (eval/evaluate_chat_mmlu.py of the Qwen repository); with shots the
most probable letter after worked examples counts (eval/evaluate_mmlu.py). The main figure is the share of all
questions; each category's is its own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from qwartet.evaluate.data_files import find_folder, sha256_of_all
from qwartet.evaluate.extraction.choices import LETTERS, english_choice
from qwartet.evaluate.figures import share
from qwartet.evaluate.question import Answer, Chat, Choose, Figure, Grade, Question, Record
from qwartet.evaluate.tasks.multiple_choice import Item, categories, csv_files, most_probable, read_items, shots_of
from qwartet.tokenizer.chatml import Message

MAX_LENGTH = 2048  # tokens of a prompt with shots; the published script drops what is before them
CATEGORIES = categories("mmlu")
SUBJECTS = tuple(subject for subjects in CATEGORIES.values() for subject in subjects)


class Mmlu:
    """The test split; `shots` worked examples come from the dev split."""

    name = "mmlu"

    def __init__(self, directory: Path, shots: int) -> None:
        """DataError where a subject's file is missing."""
        self._shots = shots
        self._test = find_folder(directory, "test", [f"{subject}_test.csv" for subject in SUBJECTS])
        self._dev = find_folder(directory, "dev", [f"{subject}_dev.csv" for subject in SUBJECTS]) if shots else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"shots": self._shots, "sha256": sha256_of_all(csv_files(self._test, self._dev))}

    def questions(self) -> Sequence[Question]:
        found = []
        for subject in SUBJECTS:
            examples = ""
            if self._dev is not None:
                path = self._dev / f"{subject}_dev.csv"
                items = shots_of(read_items(path, has_header=False, has_answers=True), self._shots, path)
                about = subject.replace("_", " ")
                examples = f"The following are multiple choice questions (with answers) about {about}.\n\n"
                examples += "".join(_example(item, f" {item.answer}\n\n") for item in items)
            for item in read_items(self._test / f"{subject}_test.csv", has_header=False, has_answers=True):
                if self._dev is not None:
                    choices = tuple(f" {letter}" for letter in LETTERS)
                    asked: Chat | Choose = Choose(examples + _example(item, ""), choices, MAX_LENGTH)
                else:
                    asked = Chat((Message("user", _chat_question(item)),))
                reference = {"answer": item.answer, "options": item.options}
                found.append(Question(f"{subject}/{item.number}", subject, asked, reference, examples and subject))
        return found

    def grade(self, question: Question, answer: Answer) -> Grade:
        right = question.reference["answer"]
        if isinstance(question.request, Choose):
            return most_probable(answer, right)
        found = english_choice(answer.text, question.reference["options"])
        return Grade(found, float(found == right))

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        figures = [share("accuracy", records)]
        for category, subjects in CATEGORIES.items():
            if members := [record for record in records if record.group in subjects]:
                figures.append(share(category, members))
        return figures

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}


def _example(item: Item, answer: str) -> str:
    options = "".join(f"\n{letter}. {text}" for letter, text in item.options.items())
    return f"Question: {item.question}{options}\nAnswer:{answer}"


def _chat_question(item: Item) -> str:
    options = "".join(f"{letter}. {text}\n" for letter, text in item.options.items())
    return (
        "The following is a multiple-choice question. Please choose the most suitable one among A, B, C and D as the "
        f"answer to this question.\n\n{item.question}\n{options}"
    )
