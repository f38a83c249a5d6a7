"""C-Eval: Chinese multiple-choice questions of 52 subjects, data of the published archive (dev/, val/, test/).

Prompts and extraction are those of eval/evaluate_chat_ceval.py (without shots) and eval/evaluate_ceval.py (with shots)
of the Qwen repository. Scores are averaged over subjects. The test split has no answers: its run writes the submission
file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from qwartet.evaluate.extraction.choices import LETTERS, chinese_choice
from qwartet.evaluate.figures import group_average
from qwartet.evaluate.question import Figure, Record
from qwartet.evaluate.tasks.multiple_choice import Item, MultipleChoice, categories

CATEGORIES = categories("ceval")
SUBJECTS = tuple(subject for name, subjects in CATEGORIES.items() if name != "Hard" for subject in subjects)
SUBMISSION_FILE = "ceval_submission.json"


class Ceval(MultipleChoice):
    """The val split, or the test split."""

    subjects, has_header, choices = SUBJECTS, True, LETTERS

    def __init__(self, directory: Path, shots: int, split: Literal["val", "test"] = "val") -> None:
        super().__init__(directory, shots, split)
        self.name = "ceval" if split == "val" else "ceval-test"

    @property
    def has_answers(self) -> bool:
        return self._split == "val"

    def preamble(self, subject: str) -> str:
        return ""

    def example(self, item: Item, answer: str | None) -> str:
        options = "".join(f"\n{letter}. {text}" for letter, text in item.options.items())
        return f"问题：{item.question}{options}\n答案：" + (f"{answer}\n\n" if answer else "")

    def chat_question(self, item: Item) -> str:
        return f"{item.question}\n\n" + "".join(f"{letter}. {text}\n" for letter, text in item.options.items())

    def extract(self, answer: str, reference: dict[str, Any]) -> str:
        return chinese_choice(answer, reference["question"], reference["options"])

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        if not self.has_answers:
            answered = sum(record.extracted is not None for record in records)
            return [Figure("answered", 100 * answered / len(records), len(records))]
        figures = [group_average("accuracy", records)]
        for name, subjects in CATEGORIES.items():
            if members := [record for record in records if record.group in subjects]:
                figures.append(group_average(name, members))
        return figures

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        """Of the test split: the answers in the form that the benchmark's site takes."""
        if self.has_answers:
            return {}
        answers: dict[str, dict[str, str]] = {subject: {} for subject in SUBJECTS}
        for record in records:
            answers[record.group][record.id.rpartition("/")[2]] = record.extracted or ""
        return {SUBMISSION_FILE: (json.dumps(answers, indent=1) + "\n").encode()}
