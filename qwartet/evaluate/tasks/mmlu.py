"""MMLU: 14,042 English multiple-choice questions of 57 subjects, data of the published archive (dev/, test/).

Prompts and extraction are those of eval/evaluate_chat_mmlu.py (without shots) and eval/evaluate_mmlu.py (with shots) of
the Qwen repository. The main figure is the share of all questions; each category's is its own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwartet.evaluate.extraction.choices import LETTERS, english_choice
from qwartet.evaluate.figures import share
from qwartet.evaluate.question import Figure, Record
from qwartet.evaluate.tasks.multiple_choice import Item, MultipleChoice, categories

CATEGORIES = categories("mmlu")
SUBJECTS = tuple(subject for subjects in CATEGORIES.values() for subject in subjects)


class Mmlu(MultipleChoice):
    """The test split."""

    name = "mmlu"
    subjects, has_header = SUBJECTS, False
    choices = tuple(f" {letter}" for letter in LETTERS)
    max_length = 2048  # of the published script

    def __init__(self, directory: Path, shots: int) -> None:
        super().__init__(directory, shots, "test")

    def preamble(self, subject: str) -> str:
        about = subject.replace("_", " ")
        return f"The following are multiple choice questions (with answers) about {about}.\n\n"

    def example(self, item: Item, answer: str | None) -> str:
        options = "".join(f"\n{letter}. {text}" for letter, text in item.options.items())
        return f"Question: {item.question}{options}\nAnswer:" + (f" {answer}\n\n" if answer else "")

    def chat_question(self, item: Item) -> str:
        options = "".join(f"{letter}. {text}\n" for letter, text in item.options.items())
        return (
            "The following is a multiple-choice question. Please choose the most suitable one among A, B, C and D as "
            f"the answer to this question.\n\n{item.question}\n{options}"
        )

    def extract(self, answer: str, reference: dict[str, Any]) -> str:
        return english_choice(answer, reference["options"])

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        figures = [share("accuracy", records)]
        for category, subjects in CATEGORIES.items():
            if members := [record for record in records if record.group in subjects]:
                figures.append(share(category, members))
        return figures

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}
